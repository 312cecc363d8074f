"""Train a vision transformer jointly with its loss estimator, by the Trainer of Hugging Face."""

from tempfile import TemporaryDirectory

import torch
from sklearn.datasets import load_digits
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from misgiving import JointClassifier, joint_objective
from misgiving.metrics.loss_estimation import spearman


class Joint(nn.Module):
    """The joint model with inputs and outputs as Trainer wants them."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values, labels):
        """Eq. 2, cross-entropy and lambda times Eq. 1, with logits and predicted losses."""
        logits, predicted_losses, _ = self.model(pixel_values)
        objective = joint_objective(logits, predicted_losses, labels)
        return {"loss": objective.total, "logits": logits, "predicted_losses": predicted_losses}


set_seed(0)
digits = load_digits()
pixels = torch.tensor(digits.images / 16, dtype=torch.float32)
images = pixels[:, None].expand(-1, 3, -1, -1)
samples = [
    {"pixel_values": image, "labels": int(label)}
    for image, label in zip(images, digits.target, strict=True)
]
config = ViTConfig(
    image_size=8,
    patch_size=2,
    hidden_size=48,
    num_hidden_layers=4,
    num_attention_heads=3,
    intermediate_size=96,
    num_labels=10,
)
network = ViTForImageClassification(config)
model = JointClassifier(network, taps=[f"vit.layers.{number}" for number in range(4)])

with TemporaryDirectory() as folder:
    settings = TrainingArguments(
        folder,
        num_train_epochs=12,
        per_device_train_batch_size=60,
        learning_rate=1e-3,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(Joint(model), settings, train_dataset=samples[:900])
    trainer.train()
    found = trainer.predict(samples[900:])

logits, predicted_losses = map(torch.tensor, found.predictions)
labels = torch.tensor(found.label_ids)
losses = nn.functional.cross_entropy(logits, labels, reduction="none")
accuracy = (logits.argmax(dim=1) == labels).float().mean()
correlation = spearman(predicted_losses.double().numpy(), losses.double().numpy())
print(f"accuracy {accuracy:.3f}, rank correlation of predicted and true losses {correlation:.3f}")

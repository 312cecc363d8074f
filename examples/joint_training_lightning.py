"""Train a torchvision model jointly with its loss estimator, in Lightning."""

import pytorch_lightning
import torch
from sklearn.datasets import load_digits
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import shufflenet_v2_x0_5

from misgiving import JointClassifier, joint_objective
from misgiving.metrics.loss_estimation import spearman


class Joint(pytorch_lightning.LightningModule):
    """The joint model with the paper's objective."""

    def __init__(self):
        super().__init__()
        network = shufflenet_v2_x0_5(num_classes=10)
        self.model = JointClassifier(network, taps=["stage2", "stage3", "stage4"], image_size=32)

    def training_step(self, batch, _):
        """Eq. 2: cross-entropy and lambda times Eq. 1."""
        images, labels = batch
        output = self.model(images)
        return joint_objective(output.logits, output.predicted_losses, labels).total

    def predict_step(self, batch, _):
        """Logits, predicted losses and labels."""
        images, labels = batch
        output = self.model(images)
        return output.logits, output.predicted_losses, labels

    def configure_optimizers(self):
        """AdamW for classifier and estimator."""
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


pytorch_lightning.seed_everything(0)
digits = load_digits()
pixels = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None]
images = torch.nn.functional.interpolate(pixels, size=32).expand(-1, 3, -1, -1)
labels = torch.tensor(digits.target)
training = DataLoader(TensorDataset(images[:900], labels[:900]), 60, shuffle=True)
new = DataLoader(TensorDataset(images[900:], labels[900:]), 100)

trainer = pytorch_lightning.Trainer(
    max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False
)
trainer.fit(joint := Joint(), training)
outputs = trainer.predict(joint, new)
logits, predicted_losses, true = (torch.cat(parts) for parts in zip(*outputs, strict=True))
losses = torch.nn.functional.cross_entropy(logits, true, reduction="none")
accuracy = (logits.argmax(dim=1) == true).float().mean()
correlation = spearman(predicted_losses.double().numpy(), losses.double().numpy())
print(f"accuracy {accuracy:.3f}, rank correlation of predicted and true losses {correlation:.3f}")

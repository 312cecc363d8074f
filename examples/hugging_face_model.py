"""Give a vision transformer that is already trained a loss estimator, and a deferral policy."""

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F
from transformers import ViTConfig, ViTForImageClassification

from misgiving import Deferral, attach, ranking_loss
from misgiving.metrics.loss_estimation import spearman

torch.manual_seed(0)
digits = load_digits()
pixels = torch.tensor(digits.images / 16, dtype=torch.float32)
images, labels = pixels[:, None].expand(-1, 3, -1, -1), torch.tensor(digits.target)
known, held_out, tuning, calibration = (
    slice(0, 600),
    slice(600, 900),
    slice(900, 1100),
    slice(1100, None),
)

# In place of `ViTForImageClassification.from_pretrained("your-folder")`:
config = ViTConfig(
    image_size=8, patch_size=2, hidden_size=48, num_hidden_layers=3, num_attention_heads=3,
    intermediate_size=96, num_labels=10,
)  # fmt: skip
network = ViTForImageClassification(config)
optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
for _ in range(12):
    for rows in torch.randperm(600).split(60):
        loss = F.cross_entropy(network(images[known][rows]).logits, labels[known][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

model = attach(network, taps=[f"vit.layers.{number}" for number in range(3)]).train()
optimizer = torch.optim.AdamW(model.loss_estimator.parameters(), lr=3e-3)
for _ in range(20):  # on images that the classifier was not trained on
    for rows in torch.randperm(300).split(60):
        output = model(images[held_out][rows])
        losses = F.cross_entropy(output.logits, labels[held_out][rows], reduction="none")
        optimizer.zero_grad()
        ranking_loss(output.predicted_losses, losses).backward()
        optimizer.step()

model.eval()
with torch.no_grad():
    logits, predicted_losses, _ = model(images)
deferral = Deferral(max_error=0.1).fit(
    (logits[tuning], labels[tuning]), (logits[calibration], labels[calibration])
)
certificate = deferral.certificate_
print(
    certificate.accepted, "of", certificate.cases, "accepted,", certificate.wrong, "of them wrong"
)
losses = F.cross_entropy(logits, labels, reduction="none")
accuracy = (logits[calibration].argmax(dim=1) == labels[calibration]).float().mean()
correlation = spearman(
    predicted_losses[calibration].double().numpy(), losses[calibration].double().numpy()
)
print(f"accuracy {accuracy:.3f}, rank correlation of predicted and true losses {correlation:.3f}")

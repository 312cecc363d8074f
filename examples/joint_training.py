"""Train a module of your own jointly with its loss estimator, in plain PyTorch."""

import torch
from sklearn.datasets import load_digits
from torch import nn

from misgiving import JointClassifier, joint_objective
from misgiving.metrics.loss_estimation import spearman

torch.manual_seed(0)
digits = load_digits()
pixels = torch.tensor(digits.images / 16, dtype=torch.float32)
images, labels = pixels[:, None].expand(-1, 3, -1, -1), torch.tensor(digits.target)
new = slice(900, None)

network = nn.Sequential(
    nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()),
    nn.Sequential(nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.BatchNorm2d(32), nn.ReLU()),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(32, 10),
)
model = JointClassifier(network, taps=["0", "1"], image_size=8)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

model.train()
for _ in range(8):
    for rows in torch.randperm(900).split(64):
        output = model(images[rows])
        objective = joint_objective(output.logits, output.predicted_losses, labels[rows])
        optimizer.zero_grad()
        objective.total.backward()  # Eq. 2: cross-entropy and lambda times Eq. 1
        optimizer.step()

model.eval()
with torch.no_grad():
    logits, predicted_losses, _ = model(images[new])
losses = nn.functional.cross_entropy(logits, labels[new], reduction="none")
accuracy = (logits.argmax(dim=1) == labels[new]).float().mean()
correlation = spearman(predicted_losses.double().numpy(), losses.double().numpy())
print(f"accuracy {accuracy:.3f}, rank correlation of predicted and true losses {correlation:.3f}")

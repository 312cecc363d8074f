"""Classifiers that this package did not train, and images that are new to them."""

from dataclasses import replace

import numpy as np
import torch
from coloured import coloured_set
from PIL import Image
from torch.nn import functional as F

SIDE = 16


def pixels_of(images):
    """Images of a set as they lie in memory, in [0, 1]."""
    return torch.from_numpy(images.images).permute(0, 3, 1, 2).float() / 255


def write_folder(folder, images):
    """One subfolder for each class."""
    for square, label, name in zip(images.images, images.labels, images.ids, strict=True):
        place = folder / images.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square).save(place / f"{name}.png")
    return folder


def hard_set(size, seed):
    """Images so noisy that their colour hardly shows."""
    images, random = coloured_set(size, seed=seed), np.random.default_rng(seed)
    veil = random.integers(0, 256, images.images.shape)
    share = random.uniform(0, 0.4, (size, 1, 1, 1))
    mixed = share * images.images + (1 - share) * veil
    return replace(images, images=mixed.astype(np.uint8))


def train(module, logits_of, mean, std, steps):
    """A few steps; some answers stay wrong. Batch normalisation ends with statistics of all."""
    images = hard_set(300, seed=7)
    inputs, labels = (pixels_of(images) - mean) / std, torch.from_numpy(images.labels)
    optimizer = torch.optim.AdamW(module.train().parameters(), 5e-3)
    for step in range(steps):
        rows = torch.arange(60) + 60 * (step % 5)
        loss = F.cross_entropy(logits_of(module(inputs[rows])), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None  # the mean over what is seen
    with torch.no_grad():
        module(inputs)
    return module.eval()


def vit(**options):
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    names = dict(enumerate("abc"))
    settings = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}
    settings |= {"intermediate_size": 32, "image_size": SIDE, "patch_size": 4, "id2label": names}
    settings["label2id"] = {name: number for number, name in names.items()}
    return ViTForImageClassification(ViTConfig(**settings | options)).eval()


def save_pretrained(folder, module, processor=None):
    """A folder of Hugging Face's format."""
    from transformers import ViTImageProcessorPil

    module.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    (processor or ViTImageProcessorPil(size=size)).save_pretrained(folder)
    return folder


def resnet():
    from torchvision.models import resnet18

    torch.manual_seed(0)
    return resnet18(num_classes=3).eval()


def timm_network():
    import timm

    torch.manual_seed(0)
    return timm.create_model("test_efficientnet", num_classes=3).eval()


def picture(height, width, seed=0):
    random = np.random.default_rng(seed)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))

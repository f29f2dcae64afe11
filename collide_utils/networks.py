"""The architecture of the shipped networks."""

from __future__ import annotations

import torch
from torch import nn

INPUT_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_WIDTHS = (64, 96, 176)


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel: ``(N, C, H, W)`` in and out."""

    def __init__(self, mean, std):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class SmallResNet(nn.Module):
    """A three-block residual network for 224×224 RGB images in [0, 1], normalised inside.

    Parameters
    ----------
    stem : ``"patch"`` (7×7 convolution, stride 7: windows do not overlap) or ``"stride"`` (the ResNet stem of He et
        al. 2016: 7×7, stride 2, padding 3, then 3×3 max pooling of stride 2). Both have 64 filters and no bias.
    categories : the class names, in the order of the logits.
    """

    def __init__(self, stem, categories):
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        if stem not in ("patch", "stride"):
            raise ValueError(f"stem must be 'patch' or 'stride', not {stem!r}")
        self.stem, self.categories, self.input_size = stem, list(categories), INPUT_SIZE
        self.normalize = Normalize(MEAN, STD)
        patch = stem == "patch"
        self.conv1 = nn.Conv2d(3, 64, 7, stride=7 if patch else 2, padding=0 if patch else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.Identity() if patch else nn.MaxPool2d(3, stride=2, padding=1)
        before = 64
        for depth, width in enumerate(_WIDTHS, start=1):
            shortcut = nn.Sequential(nn.Conv2d(before, width, 1, stride=2, bias=False), nn.BatchNorm2d(width))
            setattr(self, f"layer{depth}", BasicBlock(before, width, 2, shortcut))
            before = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(before, len(self.categories))

    def forward(self, x):
        x = self.pool(self.relu(self.bn1(self.conv1(self.normalize(x)))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.flatten(self.avgpool(x)))

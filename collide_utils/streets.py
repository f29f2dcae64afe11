"""Two networks for street scenes with the same body: one labels every pixel, one puts boxes around cars and people."""

from collections import OrderedDict

import torch.nn.functional as F
from torch import nn

LABELS = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
BOXED = ("car", "pedestrian")
INPUT_SIZE = (252, 336)  # 0.7 of CamVid's 360×480: 36×48 windows and nothing left over
_WINDOW, _WIDTHS, _FEATURES = 7, (64, 88, 112), 64


class StreetBody(nn.Module):
    """A stem of 7×7 windows side by side, residual blocks at three resolutions, a feature pyramid (Lin et al. 2017).

    Takes normalised images ``(N, 3, H, W)``, H and W at least 7; returns features ``(N, 64, h, w)`` at a seventh, a
    14th and a 28th of the resolution, in a dictionary.
    """

    out_channels = _FEATURES  # torchvision's detectors ask for it

    def __init__(self):
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        self.conv1 = nn.Conv2d(3, _WIDTHS[0], _WINDOW, stride=_WINDOW, bias=False)
        self.bn1 = nn.BatchNorm2d(_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        before = _WIDTHS[0]
        for depth, width in enumerate(_WIDTHS, start=1):
            stride = 1 if depth == 1 else 2
            shortcut = (
                None
                if depth == 1
                else nn.Sequential(nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width))
            )
            blocks = [BasicBlock(before, width, stride, shortcut), *([BasicBlock(width, width)] if depth < 3 else [])]
            setattr(self, f"layer{depth}", nn.Sequential(*blocks))
            setattr(self, f"lateral{depth}", nn.Conv2d(width, _FEATURES, 1))
            before = width
        self.smooth1, self.smooth2 = (BasicBlock(_FEATURES, _FEATURES) for _ in range(2))

    def forward(self, x):
        first = self.layer1(self.relu(self.bn1(self.conv1(x))))
        second = self.layer2(first)
        third = self.lateral3(self.layer3(second))
        second = self.smooth2(self.lateral2(second) + F.interpolate(third, second.shape[-2:], mode="bilinear"))
        first = self.smooth1(self.lateral1(first) + F.interpolate(second, first.shape[-2:], mode="bilinear"))
        return OrderedDict(zip(("seventh", "14th", "28th"), (first, second, third), strict=True))


class StreetNet(nn.Module):
    """Labels every pixel: images ``(N, 3, H, W)`` in [0, 1] to logits ``(N, 11, H, W)``; normalises inside.

    Each window of 7×7 pixels gets its own 7×7 logits (a sub-pixel convolution, Shi et al. 2016). Where H or W is no
    multiple of 7, the pixels at the lower and right edge that no window sees take the logits of their neighbours.
    """

    def __init__(self, mean, std):
        from torchvision.transforms.v2 import Normalize

        super().__init__()
        self.normalize = Normalize(mean, std)
        self.backbone = StreetBody()
        self.head = nn.Conv2d(_FEATURES, len(LABELS) * _WINDOW**2, 1)
        self.shuffle = nn.PixelShuffle(_WINDOW)

    def forward(self, x):
        logits = self.shuffle(self.head(self.backbone(self.normalize(x))["seventh"]))
        below, right = (whole - seen for whole, seen in zip(x.shape[-2:], logits.shape[-2:], strict=True))
        return F.pad(logits, (0, right, 0, below), mode="replicate") if below or right else logits


def build(name, mean, std):
    """Return an untrained ``"streetnet"`` or ``"streetboxes"`` that normalises with `mean` and `std`, one per channel.

    `streetboxes` is torchvision's FCOS (Tian et al. 2019) on our body: it takes images ``(3, H, W)`` in [0, 1], in a
    list or a batch, and returns a list of dictionaries with ``boxes`` (x1, y1, x2, y2 in pixels), ``labels`` (places in
    ``categories``) and ``scores``. It does not resize images: a null-space vector is none any more when it is resized.
    """
    from torchvision.models.detection import FCOS
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOSHead

    if name == "streetnet":
        model = StreetNet(mean, std)
        model.categories = list(LABELS)
    elif name == "streetboxes":
        sizes = [(_WINDOW * 2**level,) for level in range(len(_WIDTHS))]
        model = FCOS(
            StreetBody(),
            len(BOXED),
            image_mean=list(mean),
            image_std=list(std),
            size_divisible=1,
            anchor_generator=AnchorGenerator(sizes, [(1.0,)] * len(sizes)),
            head=FCOSHead(_FEATURES, 1, len(BOXED), num_convs=2),
            score_thresh=0.05,
            nms_thresh=0.5,
        )
        model.transform.resize = _as_it_is
        model.categories = list(BOXED)
    else:
        raise ValueError(f"no street network called {name!r}; there are streetnet and streetboxes")
    model.architecture, model.input_size = name, INPUT_SIZE
    return model


def _as_it_is(image, target=None):
    return image, target

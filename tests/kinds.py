"""Kinds of network that a reader may bring: small stand-ins with random weights, and what the search makes of them.

``python tests/kinds.py`` writes ``docs/kinds.md``; ``test_kinds.py`` compares that page with what happens, and runs
every network on the images that are said to collide.
"""

import functools
import re
import warnings
from pathlib import Path
from unittest import mock

import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from collide_utils.search import NullSpaceSearch

PAGE = Path(__file__).resolve().parent.parent / "docs" / "kinds.md"
RGB = (3, 12, 16)


class Behind(nn.Module):
    """A first layer, with what comes before it and what is made of its output and the image."""

    def __init__(self, first, before=lambda x: x, after=lambda features, image: features):
        super().__init__()
        self.first, self.before, self.after = first, before, after

    def forward(self, x):
        return self.after(self.first(self.before(x)), x)


class Patches(nn.Module):
    """Images ``(N, C, H, W)`` as tokens ``(N, h·w, side²·C)``: einops' "b c (h p) (w q) -> b (h w) (p q c)"."""

    def __init__(self, side=4, spread=False):
        super().__init__()
        self.side, self.spread = side, spread

    def forward(self, x):
        n, c, h, w = x.shape
        if self.spread:  # "b c (p h) (q w) -> b (h w) (p q c)"
            cells = x.view(n, c, self.side, h // self.side, self.side, w // self.side).permute(0, 3, 5, 2, 4, 1)
        else:
            cells = x.view(n, c, h // self.side, self.side, w // self.side, self.side).permute(0, 2, 4, 3, 5, 1)
        return cells.flatten(3).flatten(1, 2)


class Normalise(nn.Module):
    def forward(self, x):
        return (x - 0.45) / torch.tensor([0.2, 0.25, 0.3]).to(x).view(3, 1, 1)


class Standardising(nn.Conv2d):
    def forward(self, x):
        centred = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, centred / centred.std((1, 2, 3), keepdim=True), self.bias, self.stride)


class TwoReaders(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = patch_conv(), patch_conv()

    def forward(self, x):
        return self.first(x) + self.second(x)


class Attending(nn.Module):
    """Attention between the rows of an image."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(48, 2, batch_first=True)

    def forward(self, x):
        rows = x.transpose(1, 2).flatten(2)
        return self.attention(rows, rows, rows)[0]


def patch_conv(rows=20, channels=3, **options):
    return nn.Conv2d(channels, rows, 4, **({"stride": 4} | options))


def transformer():
    model = torchvision.models.VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=16)
    nn.init.normal_(model.heads.head.weight)  # torchvision begins with zeros
    return model


def compiled():
    model = torch.compile(Behind(patch_conv()), backend="eager")
    model(torch.zeros(1, *RGB))
    return model


def parallel():
    with mock.patch("torch.nn.parallel.data_parallel._get_available_device_type", return_value=None):  # on any machine
        return nn.DataParallel(Behind(patch_conv()))


def normed(norm):
    return Behind(norm(patch_conv()))


def with_coordinates(x):
    return torch.cat([x, torch.linspace(0, 1, x.shape[-1]).to(x).expand_as(x[:, :1])], 1)


CHAPTERS = {
    "Windows that do not overlap": {
        "a convolution on patches (ViT-B/32, MLP-Mixer)": (lambda: Behind(patch_conv()), RGB),
        "a whole vision transformer": (transformer, (3, 16, 16)),
        "gaps between the windows, and padding": (lambda: Behind(nn.Conv2d(3, 10, 3, stride=5, padding=1)), RGB),
        "dilated windows, which skip pixels": (lambda: Behind(nn.Conv2d(3, 10, 3, 6, dilation=2)), (3, 14, 18)),
        "a grouped convolution": (lambda: Behind(patch_conv(9, groups=3)), RGB),
        "a 1×1 convolution with fewer filters than channels": (lambda: Behind(nn.Conv2d(4, 2, 1)), (4, 6, 6)),
        "`nn.Linear` on the flattened image": (lambda: Behind(nn.Linear(576, 40), nn.Flatten()), RGB),
        "`nn.Linear` on the colour of each pixel": (lambda: Behind(nn.Linear(3, 2), lambda x: x.movedim(1, -1)), RGB),
        "patches by `nn.Unfold`, then `nn.Linear`": (
            lambda: Behind(nn.Linear(48, 20), lambda x: F.unfold(x, 4, stride=4).mT),
            RGB,
        ),
        "patches by `reshape` or `rearrange`, then `nn.Linear`": (lambda: Behind(nn.Linear(48, 20), Patches()), RGB),
        "patches of pixels that lie far apart": (lambda: Behind(nn.Linear(48, 20), Patches(spread=True)), RGB),
        "`nn.PixelUnshuffle`, then a 1×1 convolution": (
            lambda: Behind(nn.Conv2d(48, 20, 1), nn.PixelUnshuffle(4)),
            RGB,
        ),
    },
    "Other images": {
        "one channel": (lambda: Behind(patch_conv(10, 1)), (1, 12, 16)),
        "one channel, repeated to three": (lambda: Behind(patch_conv(10), lambda x: x.repeat(1, 3, 1, 1)), (1, 12, 16)),
        "channels in the order blue, green, red": (lambda: Behind(patch_conv(), lambda x: x.flip(1)), RGB),
        "the green channel alone": (lambda: Behind(patch_conv(10, 1), lambda x: x[:, 1:2]), RGB),
        "coordinates as a further channel": (lambda: Behind(patch_conv(channels=4), with_coordinates), RGB),
        "a size that windows do not fill, 15×19": (lambda: Behind(patch_conv()), (3, 15, 19)),
        "the centre of the image": (lambda: Behind(patch_conv(), lambda x: x[..., 2:-2, 2:-2]), (3, 16, 20)),
        "a sound in frames (`nn.Conv1d`)": (lambda: Behind(nn.Conv1d(2, 12, 10, stride=10)), (2, 60)),
        "a film in tubes (`nn.Conv3d`)": (lambda: Behind(nn.Conv3d(3, 20, (2, 4, 4), (2, 4, 4))), (3, 4, 8, 8)),
        "a film whose frames stand in the batch": (
            lambda: Behind(
                patch_conv(), lambda x: x.transpose(1, 2).flatten(0, 1), lambda f, x: f.unflatten(0, (len(x), -1))
            ),
            (3, 4, 8, 8),
        ),
    },
    "Before the first layer": {
        "a normalisation": (lambda: nn.Sequential(Normalise(), patch_conv()), RGB),
        "a normalisation in place": (lambda: Behind(patch_conv(), lambda x: x.sub_(0.5).div_(0.25)), RGB),
        "`clamp(0, 1)` (networks of the robustness library)": (
            lambda: Behind(patch_conv(), lambda x: x.clamp(0, 1)),
            RGB,
        ),
        "`nn.LayerNorm` on each patch (ViTs of `vit-pytorch`)": (
            lambda: nn.Sequential(Patches(), nn.LayerNorm(48), nn.Linear(48, 20)),
            RGB,
        ),
        "a blur": (lambda: nn.Sequential(nn.AvgPool2d(3, 1, 1), patch_conv()), RGB),
        "resizing": (lambda: nn.Sequential(nn.Upsample((8, 8), mode="bilinear"), patch_conv()), RGB),
        "squares of the pixels": (lambda: Behind(patch_conv(), torch.square), RGB),
        "a weight for each place of the image": (
            lambda: Behind(patch_conv(), lambda x: x * torch.linspace(1, 2, x.shape[-1]).to(x)),
            RGB,
        ),
    },
    "No null space, or windows that overlap": {
        "as many filters as a window has values (ViT-B/16)": (lambda: Behind(patch_conv(48)), RGB),
        "3×3 with 64 filters (VGG)": (lambda: Behind(nn.Conv2d(3, 64, 3, padding=1)), RGB),
        "7×7 of stride 2 (ResNet)": (lambda: Behind(nn.Conv2d(3, 64, 7, stride=2, padding=3)), RGB),
        "overlapping patches by `nn.Unfold` (T2T-ViT)": (
            lambda: Behind(nn.Linear(48, 20), lambda x: F.unfold(x, 4, stride=2).mT),
            RGB,
        ),
        "`nn.PixelUnshuffle`, then 3×3, padded (TResNet)": (
            lambda: Behind(nn.Conv2d(48, 20, 3, padding=1), nn.PixelUnshuffle(4)),
            RGB,
        ),
        "overlapping patches by `nn.Unfold`, padded": (
            lambda: Behind(nn.Linear(48, 20), lambda x: F.unfold(x, 4, 1, 1, 2).mT),
            RGB,
        ),
        "padding that reflects": (lambda: Behind(patch_conv(padding=1, padding_mode="reflect")), RGB),
    },
    "The first layer does not decide": {
        "a skip from the image": (
            lambda: Behind(patch_conv(), after=lambda f, x: f + F.avg_pool2d(x, 4).mean(1, keepdim=True)),
            RGB,
        ),
        "two layers that read the image": (TwoReaders, RGB),
        "a layer that standardises its weight as it runs": (lambda: Standardising(3, 20, 4, stride=4), RGB),
        "attention as the first layer": (Attending, RGB),
        "a transposed convolution as the first layer": (lambda: nn.ConvTranspose2d(3, 2, 4, stride=4), RGB),
        "no layer with a weight": (lambda: nn.Sequential(nn.Flatten(), nn.Softmax(1)), RGB),
    },
    "Wrapped, and in other arithmetic": {
        "`torch.compile`": (compiled, RGB),
        "`nn.DataParallel`": (parallel, RGB),
        "`parametrizations.weight_norm`": (lambda: normed(parametrizations.weight_norm), RGB),
        "`parametrizations.spectral_norm`": (lambda: normed(parametrizations.spectral_norm), RGB),
        "`parametrizations.orthogonal`": (lambda: normed(parametrizations.orthogonal), RGB),
        "`nn.utils.weight_norm`, deprecated": (lambda: normed(nn.utils.weight_norm), RGB),
        "`float16`": (lambda: Behind(patch_conv()).half(), RGB),
        "`bfloat16`": (lambda: Behind(patch_conv()).bfloat16(), RGB),
        "`torch.jit.script`": (lambda: torch.jit.script(nn.Sequential(patch_conv())), RGB),
        "a part in front by `torch.jit.script`": (
            lambda: nn.Sequential(torch.jit.script(nn.Sequential(patch_conv())), nn.Conv2d(20, 4, 1)),
            RGB,
        ),
        "quantised": (
            lambda: torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(576, 40))),
            RGB,
        ),
        "complex weights": (
            lambda: Behind(patch_conv(dtype=torch.complex64), lambda x: x + 0j, lambda f, x: f.abs()),
            RGB,
        ),
        "a lazy layer that has not run": (lambda: nn.Sequential(nn.LazyConv2d(20, 4, stride=4)), RGB),
    },
}
KINDS = {words: kind for chapter in CHAPTERS.values() for words, kind in chapter.items()}


def build(words):
    """Return a kind with random weights, the same each time, and the shape of its images."""
    make, shape = KINDS[words]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that something is deprecated
        torch.manual_seed(0)
        return make().eval(), shape


@functools.cache
def search(words):
    """Return the search on a kind, or None where it is refused, and the text of the error or warning."""
    model, shape = build(words)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = NullSpaceSearch(model, shape)
        except (TypeError, ValueError) as error:
            return None, str(error)
    return found, " ".join(str(one.message) for one in caught if one.category.__module__.startswith("collide_utils"))


def page():
    """Return the page of the documentation, in Markdown."""
    lines = [
        "# Which networks collide",
        "",
        "What {class}`~collide_utils.search.NullSpaceSearch` makes of the networks that you may bring. Each row is a",
        "small network with random weights. The second column is the null space of one window, and how many windows",
        "there are. Where images collide, they are equal to the network up to rounding; else the last column is the",
        "text of the warning or the error. `python tests/kinds.py` writes this page, and a test compares it with what",
        "happens.",
        "",
    ]
    for chapter, kinds in CHAPTERS.items():
        lines += [f"## {chapter}", "", "| network | null space | what happens |", "|---|---|---|"]
        for words in kinds:
            found, text = search(words)
            text = re.sub(r"\d\.\de[+-]\d\d", "…", text).replace("|", r"\|").replace("\n", " ")
            size = "refused"
            if found:
                columns, count = found.basis.shape
                size = f"{count} of {columns}, {'×'.join(map(str, found.geometry.grid))} windows"
            lines.append(f"| {words} | {size} | {text or 'images collide'} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")

"""Networks for the course: the six that it ships, and every torchvision builder by name."""

import difflib
import inspect
import json
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from collide_utils import _data, _tensors, streets

INPUT_SIZE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SHIPPED = ("patchnet", "stridenet", "patchnet-b", "patchnet-l2", "streetnet", "streetboxes")


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, channel by channel: ``(N, C, H, W)`` in and out."""

    def __init__(self, mean, std, dtype=None):
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=dtype).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=dtype).view(-1, 1, 1))

    def forward(self, x):
        return (x - self.mean) / self.std


class SmallResNet(nn.Module):
    """A three-block residual network for 224×224 RGB images in [0, 1], normalised inside.

    Parameters
    ----------
    stem : ``"patch"`` (7×7 convolution, stride 7: windows do not overlap) or ``"stride"`` (the ResNet stem of He et
        al. 2016: 7×7, stride 2, padding 3, then 3×3 max pooling of stride 2). Both have 64 filters and no bias.
    categories : the class names, in the order of the logits.
    widths : the channels of the three blocks, each of which halves the resolution.
    """

    def __init__(self, stem, categories, widths=(64, 128, 256)):
        from torchvision.models.resnet import BasicBlock

        super().__init__()
        if stem not in ("patch", "stride"):
            raise ValueError(f"stem must be 'patch' or 'stride', not {stem!r}")
        self.stem, self.categories, self.widths, self.input_size = stem, list(categories), tuple(widths), INPUT_SIZE
        self.normalize = Normalize(MEAN, STD)
        patch = stem == "patch"
        self.conv1 = nn.Conv2d(3, 64, 7, stride=7 if patch else 2, padding=0 if patch else 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.Identity() if patch else nn.MaxPool2d(3, stride=2, padding=1)
        before = 64
        for depth, width in enumerate(self.widths, start=1):
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


def names():
    """Return the names that :func:`load` knows: the shipped networks, then torchvision's image classifiers."""
    return [*_SHIPPED, *classifiers()]


def classifiers():
    """Return the names of torchvision's image classifiers, which are builders."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def builders():
    """Return the names of all torchvision networks, whatever their task, but the quantised ones."""
    from torchvision.models import list_models

    return [name for name in list_models() if not name.startswith("quantized_")]


def is_cached(name):
    """Return whether torch's cache holds the pretrained weights of a torchvision builder: nothing is fetched."""
    return _cached(name).exists()


def _cached(name):
    from torchvision.models import get_model_weights

    return Path(torch.hub.get_dir()) / "checkpoints" / Path(get_model_weights(name).DEFAULT.url).name


def load(name, dtype=torch.float32, device="cpu", weights="DEFAULT"):
    """Return a network in eval mode that takes images ``(N, 3, H, W)`` in [0, 1] and normalises them itself.

    Its ``.categories`` are the class names in the order of the logits, its ``.input_size`` is the height and width that
    it was trained for, in pixels: one number, or (rows, columns). What the street networks return is said in
    :mod:`collide_utils.streets`.

    Parameters
    ----------
    name : one of :func:`names`. A torchvision builder stands behind a :class:`Normalize`, as ``network``.
    weights : for torchvision builders, ``"DEFAULT"`` (pretrained, from torch's cache or the network) or None (random,
        drawn from torch's generator).

    ValueError for an unknown name or a damaged file, RuntimeError where pretrained weights cannot be had. Files are
    only ever read as tensors: none can run code.
    """
    if weights not in ("DEFAULT", None):
        raise ValueError(f"weights must be 'DEFAULT' or None, not {weights!r}")
    if name in _SHIPPED:
        if weights is None:
            raise ValueError(f"{name} is shipped with its weights; only torchvision builders come with weights=None")
        path = _data.FOLDER / "models" / f"{name}.safetensors"
        model = rebuild(path, *_tensors.read(path))
    else:
        if name not in classifiers():
            raise unknown(
                name, names(), f"shipped are {', '.join(_SHIPPED)}; torchvision's classifiers go by their names"
            )
        model = _torchvision(name, weights)
    return model.to(device, dtype).eval()


def training_record(name):
    """Return how a shipped network was trained: a list of dicts, one for each epoch, with the columns of its CSV file.

    Among them are ``epoch`` (from 1), ``lr``, ``momentum``, ``weight_decay``, ``steps``, ``loss`` and ``held_out`` (the
    held-out accuracy); what was not measured in an epoch is None. ``data/models/README.md`` explains each column.
    ValueError for a network without a record, which lists those that have one.
    """
    rows = _data.table("models", "training.csv")
    record = [row for row in rows if row["network"] == name]
    if not record:
        known = list(dict.fromkeys(row["network"] for row in rows))
        raise unknown(name, known, f"there are records of {', '.join(known)}")
    return record


def save(model, path):
    """Write one of our networks to a safetensors file; what it is, its classes and normalisation are the metadata."""
    kind = (
        {"stem": model.stem, "widths": json.dumps(model.widths)}
        if isinstance(model, SmallResNet)
        else {"architecture": model.architecture}
    )
    metadata = kind | {"categories": json.dumps(model.categories), "mean": json.dumps(MEAN), "std": json.dumps(STD)}
    save_file({key: value.cpu().contiguous() for key, value in model.state_dict().items()}, path, metadata)


def rebuild(path, state, metadata):
    """Return the network of a file that :func:`save` wrote, from its tensors and metadata, in the dtype that they have.

    ValueError if they are not those of one of our networks, whole; `path` is what the message calls it.
    """
    try:
        with _OnMeta():
            if "architecture" in metadata:
                model = streets.build(metadata["architecture"], MEAN, STD)
            else:
                model = SmallResNet(
                    metadata["stem"], json.loads(metadata["categories"]), json.loads(metadata["widths"])
                )
        model.load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole file of one of our networks ({error})") from error
    return model.eval()


def shapes_only(name, **options):
    """Return a torchvision network, one of :func:`builders`, with its weights on the meta device: shapes, no memory.

    `options` are the builder's own, ``num_classes`` for example.
    """
    from torchvision.models import get_model, get_model_builder

    if name not in builders():
        raise unknown(
            name, builders(), "torchvision's networks go by their builders' names; quantised ones have no weights"
        )
    if "weights_backbone" in inspect.signature(get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # they warn unless told
    with _OnMeta():
        return get_model(name, weights=None, **options)


def unknown(name, known, what):
    """Return the ValueError for a network's name that is none of `known`: the nearest of them, then `what` is valid."""
    near = difflib.get_close_matches(str(name), known, n=5)
    return ValueError(f"no network called {name!r}; " + (f"near matches: {', '.join(near)}; " if near else "") + what)


def behind_normalization(name, network, normalization=None):
    """Return `network`, built by the torchvision builder `name`, behind a :class:`Normalize` in float64.

    `normalization` is ``(mean, std)``, by default that of the builder's pretrained weights. Class names and input size
    are theirs, too.
    """
    from torchvision.models import get_model_weights

    pretrained = get_model_weights(name).DEFAULT
    preset = pretrained.transforms()
    model = nn.Sequential()
    model.add_module("normalize", Normalize(*(normalization or (preset.mean, preset.std)), dtype=torch.float64))
    model.add_module("network", network)
    model.categories = pretrained.meta["categories"]
    model.input_size = preset.crop_size[0]
    return model


class _OnMeta(TorchFunctionMode):
    """Makes tensors without entries, but for those that builders compute with (``torch.arange`` and the like)."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.empty, torch.zeros, torch.ones, torch.randn):
            kwargs["device"] = "meta"
        elif function.__name__ in ("normal_", "uniform_"):  # nothing to fill, and slow on the meta device
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


@contextmanager
def _undisturbed():
    """Builders draw random numbers and follow the default dtype: neither shall matter to a pretrained network."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_default_dtype(before)


def _torchvision(name, weights):
    from torchvision.models import get_model, get_model_weights

    if weights is None:
        return behind_normalization(name, get_model(name, weights=None))
    pretrained = get_model_weights(name).DEFAULT
    if not is_cached(name):
        try:
            torch.hub.load_state_dict_from_url(
                pretrained.url, map_location="cpu", progress=False, check_hash=True, weights_only=True
            )
        except Exception as error:
            raise RuntimeError(
                f"the pretrained weights of {name} are neither in torch's cache nor to be had ({error}): put "
                f"{pretrained.url} into {torch.hub.get_dir()}/checkpoints, or ask for weights=None"
            ) from error
    try:
        _tensors.read(_cached(name))  # as tensors only: this vets the file before the builder reads it again
        with _undisturbed():
            network = get_model(name, weights=pretrained, progress=False)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"the pretrained weights of {name} in torch's cache are damaged: delete the file, and it will "
            f"be fetched again ({error})"
        ) from error
    return behind_normalization(name, network)

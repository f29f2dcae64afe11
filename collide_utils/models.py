"""Networks for the course: the four that it ships, and every torchvision builder by name."""

from __future__ import annotations

import difflib
import inspect
import json
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.overrides import TorchFunctionMode

from collide_utils.networks import MEAN, STD, Normalize, SmallResNet

_MODELS = Path(__file__).resolve().parent.parent / "data" / "models"
_SHIPPED = ("patchnet", "stridenet", "patchnet-b", "patchnet-l2")


def names():
    """Return the names that :func:`load` knows: the shipped networks, then torchvision's image classifiers."""
    return [*_SHIPPED, *_classifiers()]


def builders():
    """Return the names of all torchvision networks, whatever their task, but the quantised ones."""
    from torchvision.models import list_models

    return [name for name in list_models() if not name.startswith("quantized_")]


def is_cached(name):
    """Return whether torch's cache holds the pretrained weights of a torchvision builder: nothing is fetched."""
    from torchvision.models import get_model_weights

    return (Path(torch.hub.get_dir()) / "checkpoints" / Path(get_model_weights(name).DEFAULT.url).name).exists()


def load(name, dtype=torch.float32, device="cpu", weights="DEFAULT"):
    """Return a network in eval mode that takes images ``(N, 3, H, W)`` in [0, 1] and normalises them itself.

    Its ``.categories`` are the class names in the order of the logits, its ``.input_size`` is the height and width that
    it was trained for, in pixels.

    Parameters
    ----------
    name : one of :func:`names`. A torchvision builder stands behind a :class:`Normalize`, as ``network``.
    weights : for torchvision builders, ``"DEFAULT"`` (pretrained, from torch's cache or the network) or None (random).

    ValueError for an unknown name or a damaged file, RuntimeError where pretrained weights cannot be had. Files are
    only ever read as tensors: none can run code.
    """
    if weights not in ("DEFAULT", None):
        raise ValueError(f"weights must be 'DEFAULT' or None, not {weights!r}")
    if name in _SHIPPED:
        if weights is None:
            raise ValueError(f"{name} is shipped with its weights; only torchvision builders come with weights=None")
        model = read(_MODELS / f"{name}.safetensors")
    else:
        if name not in _classifiers():
            _unknown(name, names(), f"shipped are {', '.join(_SHIPPED)}; torchvision's classifiers go by their names")
        model = _torchvision(name, weights)
    return model.to(device, dtype).eval()


def save(model, path):
    """Write a :class:`SmallResNet` to a safetensors file, its stem, class names and normalisation in the metadata."""
    metadata = {"stem": model.stem, "categories": json.dumps(model.categories),
                "mean": json.dumps(MEAN), "std": json.dumps(STD)}
    save_file({key: value.cpu().contiguous() for key, value in model.state_dict().items()}, path, metadata)


def read(path):
    """Return the :class:`SmallResNet` in a file that :func:`save` wrote; ValueError if it is not such a file, whole."""
    try:
        state, metadata = _read_safetensors(path)
        model = SmallResNet(metadata["stem"], json.loads(metadata["categories"]))
        model.load_state_dict(state)
    except FileNotFoundError:
        raise
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a whole file of one of our networks ({error})") from error
    return model


def skeleton(name):
    """Return a torchvision network, one of :func:`builders`, with its weights on the meta device: shapes, no memory."""
    if name not in builders():
        _unknown(name, builders(), "torchvision's networks go by their builders' names; quantised ones have no weights")
    return _skeleton(name)


def load_checkpoint(path, arch=None):
    """Return the network in a checkpoint, as :func:`load` does, in the dtype of the file.

    Parameters
    ----------
    path : a state dict by ``torch.save`` or in safetensors, bare or under ``"model"`` or ``"state_dict"``, with or
        without the prefix of ``DataParallel``; or a file of the `robustness` library, such as the secure ImageNet
        models of Salman et al. (2020): its attacker's copy is dropped, its normalisation kept.
    arch : a torchvision image classifier; by default the longest name that the file's name begins with. It may have
        another number of classes than torchvision's, and is not needed for a file of :func:`save`.

    Without a normalisation in the file, it is torchvision's for `arch`. The `robustness` library clamps images to
    [0, 1] first; the network returned here does not, so the two agree on images in [0, 1].

    Files are read as tensors alone. ValueError for a file that needs code to be loaded, for a damaged one, for one
    whose keys or shapes are not those of `arch`, and for an unknown `arch`.
    """
    path = Path(path)
    state, is_ours = _read_tensors(path)
    if is_ours:
        return read(path).eval()
    arch = arch or max((name for name in _classifiers() if path.name.startswith(name)), key=len, default=path.name)
    if arch not in _classifiers():
        _unknown(arch, _classifiers(), "arch is one of torchvision's image classifiers")
    state, normalization = _split_robustness(state)
    network = _skeleton(arch)
    classes = {state[key].shape[0] for key, shape in _shapes(network).items() if key in state and state[key].ndim
               and tuple(state[key].shape) != shape == (1000, *state[key].shape[1:])}
    if len(classes) == 1:
        network = _skeleton(arch, num_classes=next(iter(classes)))
    _compare_shapes(path, arch, {key: tuple(value.shape) for key, value in state.items()}, _shapes(network))
    network.load_state_dict(state, assign=True)
    model = _behind_normalization(arch, network, normalization)
    if classes:
        del model.categories  # another number of classes: their names are not torchvision's
    return model.to(next(network.parameters()).dtype).eval()


class _OnMeta(TorchFunctionMode):
    """Makes tensors without entries, but for those that builders compute with (``torch.arange`` and the like)."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function in (torch.empty, torch.zeros, torch.ones, torch.randn):
            kwargs["device"] = "meta"
        elif function.__name__ in ("normal_", "uniform_"):  # nothing to fill, and slow on the meta device
            return args[0] if args else kwargs["tensor"]
        return function(*args, **kwargs)


def _skeleton(name, **options):
    from torchvision.models import get_model, get_model_builder

    if "weights_backbone" in inspect.signature(get_model_builder(name)).parameters:
        options["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        options["init_weights"] = False  # they warn unless told
    with _OnMeta():
        return get_model(name, weights=None, **options)


def _read_safetensors(path):
    with safe_open(path, framework="pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118 (not a dict)


def _read_tensors(path):
    """Return the tensors in a checkpoint, and whether it is one of :func:`save`."""
    try:
        if path.suffix == ".safetensors":
            state, metadata = _read_safetensors(path)
            return state, "stem" in metadata
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, IsADirectoryError):
        raise
    except Exception as error:  # of many kinds, for damaged files
        needed = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path}: refused, because loading it would run code: it holds a {needed[1]}. Ask its author for the state "
            "dict alone, or for safetensors" if needed else
            f"{path}: not a whole checkpoint ({type(error).__name__}: {str(error)[:200]})") from error
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()) or not state:
        raise ValueError(f"{path}: holds no state dict, bare or under 'model' or 'state_dict'")
    return {key.removeprefix("module."): value for key, value in state.items()}, False


def _split_robustness(state):
    """Return a state dict as the network's own and ``(mean, std)``, or None if it is not of the robustness library."""
    if "normalizer.new_mean" not in state:
        return state, None
    own = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    return own, [state[f"normalizer.new_{what}"].flatten().tolist() for what in ("mean", "std")]


def _shapes(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _compare_shapes(path, arch, found, expected):
    differences = {
        "not in the file": [key for key in expected if key not in found
                            and not key.endswith("num_batches_tracked")],  # which older files do not have
        f"not in {arch}": [key for key in found if key not in expected],
        "of another shape": [f"{key} {found[key]} instead of {expected[key]}" for key in expected
                             if key in found and found[key] != expected[key]]}
    lines = [f"{len(keys)} keys {what}: " + ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
             for what, keys in differences.items() if keys]
    if lines:
        raise ValueError("\n".join([f"{path}: not a {arch}", *lines]))


def _unknown(name, known, what):
    near = difflib.get_close_matches(str(name), known, n=5)
    raise ValueError(f"no network called {name!r}; " + (f"near matches: {', '.join(near)}; " if near else "") + what)


def _classifiers():
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _torchvision(name, weights):
    from torchvision.models import get_model, get_model_weights

    pretrained = get_model_weights(name).DEFAULT
    if weights is not None:
        try:
            # Loading here as tensors only vets the cached file before the builder reads it again.
            torch.hub.load_state_dict_from_url(pretrained.url, map_location="cpu", progress=False, check_hash=True,
                                               weights_only=True)
        except Exception as error:
            raise RuntimeError(
                f"the pretrained weights of {name} are neither in torch's cache nor to be had ({error}): put "
                f"{pretrained.url} into {torch.hub.get_dir()}/checkpoints, or ask for weights=None") from error
    network = get_model(name, weights=pretrained if weights is not None else None, progress=False)
    return _behind_normalization(name, network)


def _behind_normalization(name, network, normalization=None):
    from torchvision.models import get_model_weights

    pretrained = get_model_weights(name).DEFAULT
    preset = pretrained.transforms()
    model = nn.Sequential()
    model.add_module("normalize", Normalize(*(normalization or (preset.mean, preset.std))))
    model.add_module("network", network)
    model.categories = pretrained.meta["categories"]
    model.input_size = preset.crop_size[0]
    return model

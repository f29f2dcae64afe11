"""Networks from other people's files: checkpoints, read as tensors alone."""

import re
from pathlib import Path

import torch

from collide_utils import _tensors, models

_WRAPPERS = ("model", "state_dict", "model_state_dict", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "net.")


def load_checkpoint(path, arch=None):
    """Return the network in a checkpoint, as :func:`~collide_utils.models.load` does, in the dtype of the file.

    Parameters
    ----------
    path : a state dict by ``torch.save`` or in safetensors, bare or under ``"model"``, ``"state_dict"``,
        ``"model_state_dict"`` or ``"net"``, or one under the other, with or without a prefix that wrappers leave on all
        keys (``module.``, ``_orig_mod.``, ``model.``, ``backbone.``, ``net.``); or a file of the `robustness` library,
        such as the secure ImageNet models of Salman et al. (2020): its attacker's copy is dropped, its normalisation
        kept.
    arch : a torchvision image classifier; by default the longest name that the file's name begins with, or if there is
        none, the one whose keys and shapes are those of the file. It may have another number of classes than
        torchvision's, and is not needed for a file of :func:`~collide_utils.models.save`.

    Without a normalisation in the file, it is torchvision's for `arch`. The `robustness` library clamps images to
    [0, 1] first; the network returned here does not, so the two agree on images in [0, 1].

    Files are read as tensors alone. ValueError for a file that needs code to be loaded, for a damaged, scripted or
    quantised one, for one whose keys or shapes are not those of `arch`, or of several classifiers where `arch` is not
    given, and for an unknown `arch`.
    """
    path = Path(path)
    content, metadata = _tensors.read(path)
    if metadata.keys() & {"stem", "architecture"}:
        return models.rebuild(path, content, metadata)
    known = models.classifiers()
    arch = arch or max((name for name in known if path.name.startswith(name)), key=len, default=None)
    if arch not in (None, *known):
        raise models.unknown(arch, known, "arch is one of torchvision's image classifiers")
    state, normalization = _split_robustness(path, _state_dict(path, content))
    # torchvision's own files of densenets have keys from before PyTorch 0.4
    state = {re.sub(r"(denselayer\d+\.(norm|conv))\.(\d)\.", r"\1\3.", key): value for key, value in state.items()}
    arch = arch or _nearest(path, state, known)
    network = models.shapes_only(arch)
    classes = {
        state[key].shape[0]
        for key, shape in _shapes(network).items()
        if key in state and state[key].ndim and tuple(state[key].shape) != shape == (1000, *state[key].shape[1:])
    }
    if len(classes) == 1:
        network = models.shapes_only(arch, num_classes=next(iter(classes)))
    _compare_shapes(path, arch, {key: tuple(value.shape) for key, value in state.items()}, _shapes(network))
    for key, _ in network.named_parameters():
        if not state[key].is_floating_point():
            raise ValueError(f"{path}: {key} is {state[key].dtype}, not floating point")
    network.load_state_dict(state, assign=True)
    model = models.behind_normalization(arch, network, normalization)
    if classes:
        del model.categories  # another number of classes: their names are not torchvision's
    return model.to(next(network.parameters()).dtype).eval()


def _state_dict(path, content):
    """Return the state dict in what a file holds, without the wrappers' prefixes."""
    for _ in _WRAPPERS:
        if isinstance(content, dict):
            content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), dict)), content)
    if not isinstance(content, dict):
        content = {}
    if any("_packed_params" in str(key) or getattr(value, "is_quantized", False) for key, value in content.items()):
        raise ValueError(f"{path}: a quantised network. Take the one that was quantised: its weights are matrices")
    if not content or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items()):
        raise ValueError(f"{path}: holds no state dict, bare or under {', '.join(_WRAPPERS)}")
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in content)), None):
        content = {key.removeprefix(prefix): value for key, value in content.items()}
    return content


def _split_robustness(path, state):
    """Return a state dict as the network's own and ``(mean, std)``, or None if it is not of the robustness library."""
    if not any(key.startswith("normalizer.") for key in state):
        return state, None
    own = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    try:
        return own, [state[f"normalizer.new_{what}"].double().flatten().tolist() for what in ("mean", "std")]
    except KeyError as error:
        raise ValueError(f"{path}: a file of the robustness library without {error}") from None


def _shapes(network):
    return {key: tuple(value.shape) for key, value in network.state_dict().items()}


def _nearest(path, state, known):
    """Return the classifier that shares most of its keys and shapes with a state dict."""
    found = {(key, tuple(value.shape)) for key, value in state.items()}
    shared = {}
    for name in known:
        expected = set(_shapes(models.shapes_only(name)).items())
        shared[name] = len(expected & found) / len(expected | found)
    most = max(shared.values())
    nearest = [name for name, share in shared.items() if share == most]
    if len(nearest) > 1 or not most:
        which = (
            f"those of {', '.join(nearest)} alike: say which" if most else "those of no torchvision classifier: give"
        )
        raise ValueError(f"{path}: its keys and shapes ({next(iter(state))}, …) are {which} by arch")
    return nearest[0]


def _compare_shapes(path, arch, found, expected):
    differences = {
        "not in the file": [
            key for key in expected if key not in found and not key.endswith("num_batches_tracked")
        ],  # which older files do not have
        f"not in {arch}": [key for key in found if key not in expected],
        "of another shape": [
            f"{key} {found[key]} instead of {expected[key]}"
            for key in expected
            if key in found and found[key] != expected[key]
        ],
    }
    lines = [
        f"{len(keys)} keys {what}: " + ", ".join(keys[:5]) + (", …" if len(keys) > 5 else "")
        for what, keys in differences.items()
        if keys
    ]
    if lines:
        raise ValueError("\n".join([f"{path}: not a {arch}", *lines]))

"""Networks from other people's files: checkpoints, read as tensors alone."""

import re
from pathlib import Path

import torch

from collide_utils import models


def load_checkpoint(path, arch=None):
    """Return the network in a checkpoint, as :func:`load` does, in the dtype of the file.

    Parameters
    ----------
    path : a state dict by ``torch.save`` or in safetensors, bare or under ``"model"`` or ``"state_dict"``, with or
        without the prefix of ``DataParallel``; or a file of the `robustness` library, such as the secure ImageNet
        models of Salman et al. (2020): its attacker's copy is dropped, its normalisation kept.
    arch : a torchvision image classifier; by default the longest name that the file's name begins with. It may have
        another number of classes than torchvision's, and is not needed for a file of
        :func:`~collide_utils.models.save`.

    Without a normalisation in the file, it is torchvision's for `arch`. The `robustness` library clamps images to
    [0, 1] first; the network returned here does not, so the two agree on images in [0, 1].

    Files are read as tensors alone. ValueError for a file that needs code to be loaded, for a damaged one, for one
    whose keys or shapes are not those of `arch`, and for an unknown `arch`.
    """
    path = Path(path)
    state, is_ours = _read_tensors(path)
    if is_ours:
        return models._read(path).eval()
    known = models._classifiers()
    arch = arch or max((name for name in known if path.name.startswith(name)), key=len, default=path.name)
    if arch not in known:
        models._unknown(arch, known, "arch is one of torchvision's image classifiers")
    state, normalization = _split_robustness(state)
    network = models._shapes_only(arch)
    classes = {state[key].shape[0] for key, shape in _shapes(network).items() if key in state and state[key].ndim
               and tuple(state[key].shape) != shape == (1000, *state[key].shape[1:])}
    if len(classes) == 1:
        network = models._shapes_only(arch, num_classes=next(iter(classes)))
    _compare_shapes(path, arch, {key: tuple(value.shape) for key, value in state.items()}, _shapes(network))
    network.load_state_dict(state, assign=True)
    model = models._behind_normalization(arch, network, normalization)
    if classes:
        del model.categories  # another number of classes: their names are not torchvision's
    return model.to(next(network.parameters()).dtype).eval()


def _read_tensors(path):
    """Return the tensors in a checkpoint, and whether it is one of :func:`~collide_utils.models.save`."""
    try:
        if path.suffix == ".safetensors":
            state, metadata = models._read_safetensors(path)
            return state, "categories" in metadata
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

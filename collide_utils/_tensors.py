"""Files of tensors, read as tensors alone: nothing in them is ever run."""

import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open


def read(path):
    """Return what a file by ``torch.save`` or in safetensors holds, on the CPU, and its metadata (a dict of strings).

    ValueError for a file that is damaged or needs code to be loaded; OSError where it cannot be opened.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
        return torch.load(path, map_location="cpu", weights_only=True), {}
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # of many kinds; torch's messages advise to load the file with its code
        raise ValueError(f"{path}: {_what_is_wrong(error)}") from None


def _what_is_wrong(error):
    needed = re.search(r"GLOBAL ([\w.]+)", str(error))
    if needed:
        return (
            f"refused, because loading it would run code: it holds a {needed[1]}. Ask its author for the state "
            "dict alone, or for safetensors"
        )
    if "TorchScript" in str(error):
        return "a scripted network, which is code: save the state dict of the network that was scripted instead"
    why = f"{type(error).__name__}: {error}" if isinstance(error, SafetensorError) else type(error).__name__
    return f"not a whole checkpoint of tensors alone ({why})"

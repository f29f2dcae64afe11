"""Inputs and outputs of named layers during a forward pass."""


import difflib
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Recording:
    """What the recorded layers saw and returned.

    Attributes
    ----------
    inputs, outputs : dict from a layer's name to the list of its inputs or outputs, one entry per call, each a detached
        copy. Where a layer takes or returns several tensors, the first of them.
    order : the names in the order of the calls; a layer that is called twice stands twice.
    """

    inputs: dict[str, list[torch.Tensor]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[torch.Tensor]] = field(default_factory=lambda: defaultdict(list))
    order: list[str] = field(default_factory=list)


@contextmanager
def record(model, layers=None):
    """Record the inputs and outputs of `layers` while the context is open; yields a :class:`Recording`.

    Parameters
    ----------
    layers : names from ``model.named_modules()``; by default every module without children. ValueError for a name that
        is not there, with the nearest ones.

    Copies are taken at once, so a later in-place operation does not change them, and the hooks are removed on exit,
    after an error too.
    """
    modules = dict(model.named_modules())
    if layers is None:
        layers = [name for name, module in modules.items() if not any(module.children())]
    for name in layers:
        if name not in modules:
            known = difflib.get_close_matches(name, modules, n=5, cutoff=0.3) or list(modules)[1:6]
            raise ValueError(f"{type(model).__name__} has no layer {name!r}; near matches: {', '.join(known)}")
    recording, handles = Recording(), []

    def before(name, args):
        recording.inputs[name].append(_first_tensor(args))

    def after(name, output):
        recording.outputs[name].append(_first_tensor(output))
        recording.order.append(name)

    try:
        for name in layers:
            handles.append(modules[name].register_forward_pre_hook(
                lambda _, args, kwargs, name=name: before(name, (*args, *kwargs.values())), with_kwargs=True))
            handles.append(modules[name].register_forward_hook(lambda _, args, out, name=name: after(name, out)))
        yield recording
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(value):
    while not isinstance(value, torch.Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value.detach().clone()

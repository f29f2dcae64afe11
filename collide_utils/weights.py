"""Every trainable weight of a network as a matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, eq=False, repr=False)
class LayerWeight:
    """The weight of one convolution or linear layer.

    Attributes
    ----------
    name : the layer's name in ``model.named_modules()``.
    kind : the layer's class, ``"Conv2d"`` or ``"Linear"`` for example.
    matrix : tensor ``(groups, rows, columns)``, detached. One row per output channel (of its group); one column per
        entry of the window (channels of the group × window, in that order) or per input feature. A layer without
        groups has ``groups = 1``; a grouped convolution acts as the block-diagonal matrix of its groups.
    """

    name: str
    kind: str
    matrix: torch.Tensor

    def __repr__(self):
        groups, rows, columns = self.matrix.shape
        blocks = f"{groups} blocks of " if groups > 1 else ""
        return f"{self.name or 'the model itself'} ({self.kind}, {blocks}{rows}×{columns})"


def layer_weights(model, input_shape=None):
    """Return the convolution and linear weights of `model`, in forward order, as a list of :class:`LayerWeight`.

    The order is that of the first calls when `model` runs, in eval mode, on one input of `input_shape`, by default
    ``(3, model.input_size, model.input_size)``. A model without ``input_size``, given no shape, keeps the order of
    registration; a layer that the run does not call follows the one registered before it, or comes last if there is
    none. ValueError if there is no convolution and no linear layer.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _LAYERS)}
    if not layers:
        raise ValueError(f"{type(model).__name__} has no convolution and no linear layer, so no weight to search")
    if input_shape is None and hasattr(model, "input_size"):
        input_shape = (3, model.input_size, model.input_size)
    calls = _first_calls(model, layers, input_shape) if input_shape is not None else {}
    order, place = {}, len(layers)
    for name in layers:
        order[name] = place = calls.get(name, place)
    return [_layer_weight(name, layers[name]) for name in sorted(layers, key=order.__getitem__)]


def first_weight(model, input_shape=None):
    """Return the first of :func:`layer_weights`, the weight whose null space the paper searches."""
    return layer_weights(model, input_shape)[0]


def _layer_weight(name, layer):
    weight = layer.weight.detach()
    groups = getattr(layer, "groups", 1)
    return LayerWeight(name, type(layer).__name__, weight.reshape(groups, weight.shape[0] // groups, -1))


def _first_calls(model, layers, input_shape):
    calls = {}

    def note(name):
        calls.setdefault(name, len(calls))

    hooks = [layer.register_forward_pre_hook(lambda *_, name=name: note(name)) for name, layer in layers.items()]
    training = [module for module in model.modules() if module.training]
    weight = next(iter(layers.values())).weight
    try:
        with torch.no_grad():
            model.eval()(torch.zeros((1, *input_shape), dtype=weight.dtype, device=weight.device))
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return calls

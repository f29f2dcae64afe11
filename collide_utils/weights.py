"""Every trainable weight of a network as a matrix."""

from dataclasses import dataclass

import torch
from torch import nn

from collide_utils import hooks

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention, *_TRANSPOSED)


@dataclass(frozen=True, eq=False, repr=False)
class LayerWeight:
    """A weight as the matrix that acts on the layer's input.

    Attributes
    ----------
    name : the layer's name in ``model.named_modules()``.
    kind : the layer's class, ``"Conv2d"`` or ``"Linear"`` for example. The packed weight of ``nn.MultiheadAttention``
        is three: ``"MultiheadAttention query"``, ``key`` and ``value``; its output projection is a layer of its own.
    matrix : tensor ``(groups, rows, columns)``, detached. One row per output channel (of its group); one column per
        entry of the window (channels of the group × window, in that order) or per input feature. A transposed
        convolution acts on one input pixel: one column per channel, one row per output channel and place in the window.
        A layer without groups has ``groups = 1``; a grouped one acts as the block-diagonal matrix of its groups.
    """

    name: str
    kind: str
    matrix: torch.Tensor

    def __repr__(self):
        groups, rows, columns = self.matrix.shape
        blocks = f"{groups} blocks of " if groups > 1 else ""
        return f"{self.name or 'the model itself'} ({self.kind}, {blocks}{rows}×{columns})"


def layer_weights(model, input_shape=None):
    """Return the weights of `model`'s convolution, linear and attention layers as a list of :class:`LayerWeight`.

    They stand in forward order, that of the first calls when `model` runs, in eval mode, on one input of `input_shape`
    (without the batch), by default that of :func:`default_shape`. A model of which that is not known, given no shape,
    keeps the order of registration; a layer that the run does not call follows the one registered before it, or comes
    last if there is none.

    ValueError if there is no such layer, or if the model does not run on such an input.
    """
    hooks.check(model)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, _LAYERS)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no convolution, linear or attention layer: no weight to search{closed(model)}"
        )
    shape = default_shape(model) if input_shape is None else input_shape
    # A weight that is computed when it is read, such as a spectral norm, must not take a step of its training here.
    with hooks.untouched(model), torch.no_grad():
        calls = {} if shape is None else _first_calls(model, layers, shape, guessed=input_shape is None)
        order, place = {}, len(layers)
        for name in layers:
            order[name] = place = calls.get(name, place)
        return [
            weight for name in sorted(layers, key=order.__getitem__) for weight in _layer_weights(name, layers[name])
        ]


def default_shape(model):
    """Return the shape ``(C, H, W)`` of the images that `model` says it takes, or None if it says nothing.

    It says so by ``model.input_size``, in pixels: one number, rows and columns, or channels, rows and columns; then the
    shape is these three. ValueError for anything else.
    """
    size = getattr(model, "input_size", None)
    if size is None:
        return None
    shape = (size, size) if isinstance(size, int) else tuple(size) if isinstance(size, (tuple, list)) else ()
    shape = shape if len(shape) == 3 else (3, *shape)
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(
            f"{type(model).__name__}.input_size = {size!r} is neither a number of pixels nor rows and "
            "columns nor channels, rows and columns: give input_shape"
        )
    return shape


def needed_shape(model):
    """Return :func:`default_shape`; ValueError if the model says nothing."""
    shape = default_shape(model)
    if shape is None:
        raise ValueError(f"{type(model).__name__} has no input_size; give input_shape=(C, H, W)")
    return shape


def closed(model):
    """Return in words that a part of `model` is scripted or quantised, so that its weights are not seen, or nothing."""
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or "quantized" in type(module).__module__:
            return f" ({name or 'the model itself'} is scripted or quantised: its weights are not seen)"
    return ""


def first_weight(model, input_shape=None):
    """Return the first of :func:`layer_weights`, the weight whose null space the paper searches."""
    return layer_weights(model, input_shape)[0]


def uncounted_parameters(model):
    """Return the names of `model`'s parameters of two or more dimensions that :func:`layer_weights` does not hold.

    Those are embeddings and weights of layers that it does not know. Biases and the scales of normalisations have one
    dimension and are no matrices.
    """
    held = {
        id(parameter)
        for layer in model.modules()
        if isinstance(layer, _LAYERS)
        for key, parameter in layer.named_parameters()
        if "weight" in key
    }
    return [name for name, parameter in model.named_parameters() if parameter.ndim > 1 and id(parameter) not in held]


def _layer_weights(name, layer):
    kind = type(layer).__name__
    if isinstance(layer, nn.MultiheadAttention):
        packed = layer.in_proj_weight
        parts = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight) if packed is None else packed.chunk(3)
        return [
            LayerWeight(name, f"{kind} {part}", weight.detach()[None])
            for part, weight in zip(("query", "key", "value"), parts, strict=True)
        ]
    weight, groups = layer.weight.detach(), getattr(layer, "groups", 1)
    matrix = weight.reshape(groups, weight.shape[0] // groups, -1)
    return [LayerWeight(name, kind, matrix.mT if isinstance(layer, _TRANSPOSED) else matrix)]


def _first_calls(model, layers, input_shape, guessed):
    calls = {}

    def note(name):
        calls.setdefault(name, len(calls))

    handles = [layer.register_forward_pre_hook(lambda *_, name=name: note(name)) for name, layer in layers.items()]
    try:
        model(hooks.fed(model, torch.zeros((1, *input_shape))))
    except Exception as error:  # of any kind, from code that is not ours
        where = f", the shape that its input_size = {model.input_size!r} stands for" if guessed else ""
        raise ValueError(
            f"{type(model).__name__} does not run on an input of shape {input_shape!r}{where}: give the "
            f"input_shape that it takes ({type(error).__name__}: {error})"
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return calls

"""Interpretability maps of one image, by Captum, and where those of two colliding images must agree."""


import copy
import difflib
import itertools
import math
import operator
from typing import NamedTuple

import torch
from tqdm import tqdm

from collide_utils import hooks, images
from collide_utils.comparison import compare
from collide_utils.maps import theory
from collide_utils.maps.methods import METHODS, Call

SAME, DIFFERENT = "identical to rounding", "different"
_SIDES = ("input", "output")


def compute(method, model, image, layer=None, target=None, side="output"):
    """Return the map of one image as a float tensor ``(h, w)``, in the model's dtype and on its device.

    Parameters
    ----------
    method : one of ``METHODS``.
    image : floating-point tensor ``(C, H, W)``, cast to the model's dtype and device.
    layer : for a method at a layer, its name in ``model.named_modules()``.
    target : the class whose logit is explained, by default the predicted one.
    side : whether the layer's ``"input"`` or its ``"output"`` is read.

    Methods at the image give a map of its size. Those at a layer give one of the size of the layer's input or output,
    not upsampled; except guided Grad-CAM, where Captum brings Grad-CAM to the image's size bilinearly. Channels are
    reduced as the method's ``reduction`` says, and nothing is normalised. Grad-CAM keeps its positive part, as in its
    paper. Integrated gradients start at black and take 32 steps; SmoothGrad draws noise of standard deviation 0.1
    16 times, the same in every call; ablation and occlusion set to zero, ablation one of 4×4 blocks at a time. Guided
    backpropagation changes ``nn.ReLU`` layers only, and in a network without any is the plain gradient. The gradient at
    a layer's input is that of the tensor: of all that reads it, not of this layer alone.

    All happens in eval mode, on a copy of the modules that shares the model's tensors: hooks, training mode and
    in-place operations of the caller's model stay as they are, after an error too.

    ValueError for an unknown method, layer, side or class, for a batch or an image that is not finite, for a layer that
    has no rows and columns there or is not called exactly once; TypeError for anything but a floating-point image.
    """
    how, twin, image = _method(method, layer, side), _twin(model), _one_image(model, image)
    names = [] if layer is None else [layer]
    with torch.no_grad(), hooks.record(twin, names) as recording:
        logits = twin(image)
    for name in names:
        _check_spatial(recording, name, side)
    return how(_call(twin, image, _class(logits, target), layer, side))


class Row(NamedTuple):
    """One line of :func:`compare_maps`; `layer` and `side` are None for methods at the image."""

    method: str
    layer: str | None
    side: str | None
    difference: float
    verdict: str
    theory: str


def compare_maps(model, x, y, layers=None, methods=None):
    """Compare the maps of two images; return a list of :class:`Row`, one for each method, layer and side.

    Parameters
    ----------
    x, y : images ``(C, H, W)``. Both maps explain the class that is predicted for `x`.
    layers : names of layers; by default all without children that are called once and have rows and columns.
    methods : names of methods; by default all.

    ``difference`` is ‖a − b‖ / max(‖a‖, ‖b‖) of the two maps. ``verdict`` is "identical to rounding" if that is at most
    the square root of the machine epsilon of the model's dtype, else "different". ``theory`` says one or the other too,
    derived from the layer at whose output `x` and `y` begin to collide and from what the method reads:

    - an activation is the same from that output on;
    - a gradient is the same everywhere: from that output on because all that it is computed from is, and before because
      there it is the gradient at that output times a matrix that does not depend on the image;
    - the pixels are different;
    - the logit without a block is the same if the block lies behind the collision, or cuts no window of the layer.

    A map is the same if all that its method reads is. Where `x` and `y` do not collide, nothing has to be.

    ValueError if they collide in anything but a convolution or linear layer that sees the image through an affine map
    of its pixels, and as in :func:`compute`.
    """
    twin, x, y = _twin(model), _one_image(model, x), _one_image(model, y)
    comparison = compare(twin, x[0], y[0])
    stem, target = comparison.collides_from, int(comparison.logits[0].argmax())
    geometry = None if stem is None else theory.stem_geometry(twin, stem, x)
    names = None if layers is None else list(dict.fromkeys([*layers, *([] if stem is None else [stem])]))
    with torch.no_grad(), hooks.record(twin, names) as recording:
        twin(x)
    if layers is None:
        layers = [name for name in recording.order if _is_spatial(recording, name)]
    places = []
    for name in METHODS if methods is None else methods:
        at_layer = name in METHODS and METHODS[name].at == "layer"
        for layer, side in itertools.product(layers, _SIDES) if at_layer else [(None, None)]:
            places.append((name, _method(name, layer, side or "output"), layer, side))
            if at_layer:
                _check_spatial(recording, layer, side)
    rows = []
    for name, how, layer, side in tqdm(places, desc="maps of two images", unit="pair", disable=None):
        a, b = (how(_call(twin, image, target, layer, side)) for image in (x, y))
        size = max(float(a.norm()), float(b.norm()))
        difference = float((a - b).norm()) / size if size else 0.0
        same = difference <= math.sqrt(torch.finfo(a.dtype).eps)
        behind = geometry is not None and layer is not None and theory.behind(twin, recording.order, stem, layer, side)
        must = geometry is not None and theory.must_agree(how, geometry, behind)
        rows.append(Row(name, layer, side, difference, SAME if same else DIFFERENT, SAME if must else DIFFERENT))
    return rows


def _call(twin, image, target, layer, side):
    module = None if layer is None else twin.get_submodule(layer)
    return Call(twin, image.detach().requires_grad_(), target, module, side == "input")


def _method(name, layer, side):
    if name not in METHODS:
        near = difflib.get_close_matches(str(name), METHODS, n=3, cutoff=0.4) or METHODS
        raise ValueError(f"no method called {name!r}; near matches: {', '.join(near)}")
    if METHODS[name].at == "layer" and layer is None:
        raise ValueError(f"{name} is a map of a layer: name one")
    if METHODS[name].at == "image" and layer is not None:
        raise ValueError(f"{name} is a map of the image: it takes no layer, not even {layer!r}")
    if side not in _SIDES:
        raise ValueError(f"side must be 'input' or 'output', not {side!r}")
    return METHODS[name]


def _twin(model):
    # The tensors are shared, so this is as cheap for a large network as for a small one.
    twin = copy.deepcopy(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}).eval()
    for module in twin.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    return twin


def _one_image(model, image):
    images.check(image)
    return image.detach().to(next(model.parameters(), image), copy=True)[None]


def _check_spatial(recording, name, side):
    if (calls := recording.order.count(name)) != 1:
        raise ValueError(f"layer {name!r} is called {calls} times in a forward pass, so it has not one map")
    tensor = (recording.inputs if side == "input" else recording.outputs)[name][0]
    if tensor.ndim != 4:
        raise ValueError(f"the {side} of layer {name!r} has shape {tuple(tensor.shape)}: it has no rows and columns to "
                         "make a map of, as (N, C, h, w) has")


def _is_spatial(recording, name):
    sides = (recording.inputs[name], recording.outputs[name])
    return recording.order.count(name) == 1 and all(tensors[0].ndim == 4 for tensors in sides)


def _class(logits, target):
    if logits.ndim != 2:
        raise ValueError(f"the model must return (N, classes), one logit for each class, not {tuple(logits.shape)}")
    if target is None:
        return int(logits[0].argmax())
    count = logits.shape[1]
    if not 0 <= operator.index(target) < count:
        raise ValueError(f"no class {target}; there are {count}, numbered from 0")
    return operator.index(target)

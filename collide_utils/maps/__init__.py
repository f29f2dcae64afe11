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
from collide_utils.maps.methods import METHODS, Call
from collide_utils.maps.theory import Collision

EQUAL, DIFFERENT, NOT_FORCED = "equal", "different", "not forced"
_SIDES = ("input", "output")


def compute(method, model, image, layer=None, target=None, side="output", output=None):
    """Return the map of one image as a float tensor ``(h, w)``, in the model's dtype and on its device.

    Parameters
    ----------
    method : one of ``METHODS``.
    image : floating-point tensor ``(C, H, W)``, cast to the model's dtype and device.
    layer : for a method at a layer, its name in ``model.named_modules()``.
    target : the class whose logit is explained, by default the predicted one.
    side : whether the layer's ``"input"`` or its ``"output"`` is read.
    output : function from what the model returns to class scores ``(N, classes)``, for a model that returns something
        else: ``lambda returned: returned["out"].mean((2, 3))`` explains the mean score of all pixels.

    Methods at the image give a map of its size. Those at a layer give one of the size of the layer's input or output,
    not upsampled; except guided Grad-CAM, where Captum brings Grad-CAM to the image's size bilinearly. Channels are
    reduced as the method's ``reduction`` says, and nothing is normalised. Grad-CAM keeps its positive part, as in its
    paper. Integrated gradients start at black and take 32 steps; SmoothGrad draws noise of standard deviation 0.1
    16 times, the same in every call; ablation and occlusion set to zero, ablation one of 4×4 blocks at a time, and show
    by how much the logit falls. Guided backpropagation changes ``nn.ReLU`` layers only, and in a network without any is
    the plain gradient. The gradient at a layer's input is that of the tensor: of all that reads it, not of this layer
    alone.

    All happens in eval mode, on a copy of the modules that shares the model's weights, and the network is fed copies of
    the image: hooks, modes, buffers and random state stay as they are, after an error too.

    ValueError for an unknown method, layer, side or class, for a batch or an image that is not finite, for a layer that
    has no rows and columns there or is not called exactly once; TypeError for anything but a floating-point image.
    """
    how, twin, image = _method(method, layer, side), _twin(model, output), _one_image(model, image)
    names = [] if layer is None else [layer]
    with hooks.untouched(twin):
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


def compare_maps(model, x, y, layers=None, methods=None, output=None):
    """Compare the maps of two images; return a list of :class:`Row`, one for each method, layer and side.

    Parameters
    ----------
    x, y : images ``(C, H, W)``. Both maps explain the class that is predicted for `x`.
    layers : names of layers; by default all without children that are called once and have rows and columns.
    methods : names of methods; by default all.
    output : as in :func:`compute`.

    ``difference`` is ‖a − b‖ / max(‖a‖, ‖b‖) of the two maps. ``verdict`` is "equal" if that is at most the square root
    of the machine epsilon of the model's dtype, else "different". ``theory`` is "equal" if the maps must be, by the
    argument in :mod:`~collide_utils.maps.theory`, from the layer at whose output `x` and `y` begin to collide and from
    what the method reads; else "not forced", always where `x` and `y` do not collide.

    Errors as in :func:`compute`.
    """
    twin, x, y = _twin(model, output), _one_image(model, x), _one_image(model, y)
    comparison = compare(twin, x[0], y[0])
    with hooks.untouched(twin):
        names = None if layers is None else list(dict.fromkeys(layers))
        with torch.no_grad(), hooks.record(twin, names) as recording:
            target = _class(twin(x), None)
        if names is None:
            names = [name for name in recording.order if _is_spatial(recording, name)]
        places = []
        for method in METHODS if methods is None else methods:
            at_layer = method in METHODS and METHODS[method].at == "layer"
            for layer, side in itertools.product(names, _SIDES) if at_layer else [(None, None)]:
                places.append((method, _method(method, layer, side or "output"), layer, side))
                if at_layer:
                    _check_spatial(recording, layer, side)
        begin, rows = comparison.collides_from, []
        collision = None if begin is None else Collision(twin, x, y, begin, names)
        for method, how, layer, side in tqdm(places, desc="maps of two images", unit="pair", disable=None):
            a, b = (how(_call(twin, image, target, layer, side)) for image in (x, y))
            size = max(float(a.norm()), float(b.norm()))
            difference = float((a - b).norm()) / size if size else 0.0
            verdict = EQUAL if difference <= math.sqrt(torch.finfo(a.dtype).eps) else DIFFERENT
            must = collision is not None and collision.equal(how, layer, side)
            rows.append(Row(method, layer, side, difference, verdict, EQUAL if must else NOT_FORCED))
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


def _twin(model, output=None):
    # The weights are shared, so this is as cheap for a large network as for a small one.
    hooks.check(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            "a scripted network does not take the hooks that maps need: give it from before torch.jit.script"
        )
    twin = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()}).eval()
    for module in twin.modules():
        if getattr(module, "inplace", False):
            module.inplace = False
    twin.register_forward_pre_hook(lambda _, args: tuple(arg.clone() for arg in args))  # some normalise in place
    if output is not None:
        twin.register_forward_hook(lambda _, args, returned: output(returned))
    return twin


def _one_image(model, image):
    images.check(image)
    return hooks.fed(model, image)[None]


def _check_spatial(recording, name, side):
    if (calls := recording.order.count(name)) != 1:
        raise ValueError(f"layer {name!r} is called {calls} times in a forward pass, so it has not one map")
    tensor = (recording.inputs if side == "input" else recording.outputs)[name][0]
    if tensor is None or tensor.ndim != 4:
        found = "is no tensor" if tensor is None else f"has shape {tuple(tensor.shape)}"
        raise ValueError(
            f"the {side} of layer {name!r} {found}: it has no rows and columns to make a map of, as (N, C, h, w) has"
        )


def _is_spatial(recording, name):
    sides = (recording.inputs[name], recording.outputs[name])
    return recording.order.count(name) == 1 and all(tensor is not None and tensor.ndim == 4 for (tensor,) in sides)


def _class(logits, target):
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ValueError(
            f"the model must return (N, classes), one logit for each class, not {found}: give output, a "
            "function from what it returns to that"
        )
    if target is None:
        return int(logits[0].argmax())
    count = logits.shape[1]
    if not 0 <= operator.index(target) < count:
        raise ValueError(f"no class {target}; there are {count}, numbered from 0")
    return operator.index(target)

"""Captum's attribution methods as one table: who proposed each, what it reads, how it is called."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import nn

from collide_utils import hooks


class Call(NamedTuple):
    """What is explained: one image ``(1, C, H, W)``, a class and, for a method at a layer, the layer and its side."""

    model: nn.Module
    image: torch.Tensor
    target: int
    layer: nn.Module | None
    at_input: bool


@dataclass(frozen=True)
class Method:
    """How a map is made, and what from.

    Attributes
    ----------
    paper : who proposed it.
    at : ``"layer"`` if it is a map of a layer's input or output, ``"image"`` if it is one of the pixels.
    reads : what enters the map: ``"activation"`` (the tensor at the layer), ``"pixels"`` (the image, as a factor),
        ``"gradient"`` (of the class's logit, at the layer or, in a map of the image, there), ``"image gradient"`` (in a
        map of a layer, that at the image too), ``"gradients around"`` (those at images nearby), ``"blocks"`` (the logit
        when a block of the layer's tensor, or of the image, is set to zero).
    reduction : what becomes of the channels: ``"mean"``, ``"sum"`` or ``"largest"`` (the largest absolute value).
    block : for ``"blocks"``, the side of a block as a function of the side of what is cut into blocks.
    """

    paper: str
    at: str
    reads: frozenset[str]
    reduction: str
    attribute: Callable = field(repr=False)
    block: Callable[[int], int] | None = field(default=None, repr=False)

    def __call__(self, call):
        """Return the map of a :class:`Call`, a detached tensor ``(h, w)``."""
        import captum.attr

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Setting backward hooks on ReLU")
            attribution = self.attribute(captum.attr, call).detach()[0].to(call.image)
        return {"mean": attribution.mean, "sum": attribution.sum, "largest": attribution.abs().amax}[self.reduction](0)


def _activation(captum, call):
    return captum.LayerActivation(call.model, call.layer).attribute(call.image, attribute_to_layer_input=call.at_input)


def _ablation(captum, call):
    tensor, done = _up_to(call)

    def forward(image):
        for module, output in done.items():
            module.forward = lambda _, output=output: output.repeat(len(image), *[1] * (output.ndim - 1))
        # Captum hands on the tensor that it keeps for the next block, and a residual block would add to it in place.
        if call.at_input:
            hook = call.layer.register_forward_pre_hook(lambda _, args: tuple(arg.clone() for arg in args))
        else:
            hook = call.layer.register_forward_hook(lambda _, args, output: output.clone())
        try:
            with hook:
                return call.model(image)
        finally:
            for module in done:
                del module.forward

    return captum.LayerFeatureAblation(forward, call.layer).attribute(
        call.image,
        target=call.target,
        layer_mask=_blocks(tensor, _quarter),
        attribute_to_layer_input=call.at_input,
        perturbations_per_eval=16,
    )


def _up_to(call):
    """The tensor at the layer, and the outputs of the costly modules that need not run again when it is replaced."""
    inside = set(call.layer.modules()) if call.at_input else set()
    modules = {
        name: module
        for name, module in call.model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module not in inside
    }
    layer = next(name for name, module in call.model.named_modules() if module is call.layer)
    with torch.no_grad(), hooks.record(call.model, list({**modules, layer: None})) as recording:
        call.model(call.image)
    order = recording.order
    done = {
        modules[name]: recording.outputs[name][0]
        for name in order[: order.index(layer) + 1]
        if name in modules and order.count(name) == 1
    }
    return (recording.inputs if call.at_input else recording.outputs)[layer][0], done


def _grad_cam(captum, call):
    return captum.LayerGradCam(call.model, call.layer).attribute(
        call.image, call.target, attribute_to_layer_input=call.at_input, relu_attributions=True
    )


def _gradient_x_activation(captum, call):
    return captum.LayerGradientXActivation(call.model, call.layer).attribute(
        call.image, call.target, attribute_to_layer_input=call.at_input
    )


def _guided_grad_cam(captum, call):
    return captum.GuidedGradCam(call.model, call.layer).attribute(
        call.image, call.target, interpolate_mode="bilinear", attribute_to_layer_input=call.at_input
    )


def _saliency(captum, call):
    return captum.Saliency(call.model).attribute(call.image, call.target, abs=False)


def _guided_backprop(captum, call):
    return captum.GuidedBackprop(call.model).attribute(call.image, call.target)


def _smoothgrad(captum, call):
    # The same noise for every map. captum.NoiseTunnel would draw anew, and in half precision, which torch cannot.
    same = torch.Generator().manual_seed(0)
    noise = 0.1 * torch.randn(16, *call.image.shape[1:], generator=same, dtype=torch.float64)
    nearby = (call.image + noise.to(call.image)).detach().requires_grad_()
    return captum.Saliency(call.model).attribute(nearby, call.target, abs=False).mean(0, keepdim=True)


def _input_x_gradient(captum, call):
    return captum.InputXGradient(call.model).attribute(call.image, call.target)


def _integrated_gradients(captum, call):
    return captum.IntegratedGradients(call.model).attribute(call.image, target=call.target, n_steps=32)


def _occlusion(block):
    # As blocks lie side by side this is captum.Occlusion, which would round its result to float32.
    return lambda captum, call: captum.FeatureAblation(call.model).attribute(
        call.image, target=call.target, feature_mask=_blocks(call.image, block), perturbations_per_eval=16
    )


def _blocks(tensor, block):
    rows, columns = (torch.arange(n, device=tensor.device) // block(n) for n in tensor.shape[-2:])
    return (rows[:, None] * (columns[-1] + 1) + columns)[None, None]


def _quarter(n):
    return -(-n // 4)


def _28(n):
    return 28


def _32(n):
    return 32


_ACTIVATION, _BLOCKS, _GRADIENT = (frozenset({what}) for what in ("activation", "blocks", "gradient"))
_PIXELS, _AROUND = frozenset({"pixels"}), frozenset({"gradients around"})
METHODS = {
    "activation": Method("Yosinski et al. 2015", "layer", _ACTIVATION, "mean", _activation),
    "ablation": Method("Zeiler and Fergus 2014, at a layer", "layer", _BLOCKS, "mean", _ablation, _quarter),
    "grad_cam": Method("Selvaraju et al. 2017", "layer", _ACTIVATION | _GRADIENT, "sum", _grad_cam),
    "gradient_x_activation": Method(
        "Shrikumar et al. 2016, at a layer", "layer", _ACTIVATION | _GRADIENT, "sum", _gradient_x_activation
    ),
    "guided_grad_cam": Method(
        "Selvaraju et al. 2017", "layer", _ACTIVATION | _GRADIENT | {"image gradient"}, "largest", _guided_grad_cam
    ),
    "saliency": Method("Simonyan, Vedaldi and Zisserman 2014", "image", _GRADIENT, "largest", _saliency),
    "guided_backprop": Method("Springenberg et al. 2015", "image", _GRADIENT, "largest", _guided_backprop),
    "smoothgrad": Method("Smilkov et al. 2017", "image", _AROUND, "largest", _smoothgrad),
    "input_x_gradient": Method("Shrikumar et al. 2016", "image", _PIXELS | _GRADIENT, "sum", _input_x_gradient),
    "integrated_gradients": Method(
        "Sundararajan, Taly and Yan 2017", "image", _PIXELS | _GRADIENT, "sum", _integrated_gradients
    ),
    "occlusion_28": Method("Zeiler and Fergus 2014", "image", _BLOCKS, "mean", _occlusion(_28), _28),
    "occlusion_32": Method("Zeiler and Fergus 2014", "image", _BLOCKS, "mean", _occlusion(_32), _32),
}

"""All that a call must leave as it was: the caller's models and images, and what belongs to the whole process."""

import contextlib
import copy
import operator
import random

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class Network(nn.Module):
    """Small, and hard to leave alone: it writes into what it is fed, into a buffer, and is half in training mode."""

    input_size = 16

    def __init__(self):
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.conv1 = nn.Conv2d(3, 8, 4, stride=4)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout()
        self.fc = spectral_norm(nn.Linear(128, 5))

    def forward(self, x):
        self.runs += 1
        x = self.relu(self.bn1(self.conv1(x.sub_(0.5).div_(0.25))))
        return self.fc(self.dropout(x.flatten(1)))


def network():
    """Return a :class:`Network` with a frozen weight, gradients, a hook of its owner and mixed modes."""
    torch.manual_seed(0)
    model = Network().train()
    model(torch.rand(4, 3, 16, 16)).sum().backward()
    model.bn1.eval()
    model.conv1.weight.requires_grad_(False)
    model.relu.register_forward_hook(lambda *_: None)
    return model


def snapshot(*things):
    """Return what can be compared with ``==`` after a call: of models, tensors and lists, and of the process."""
    return [_of(thing) for thing in things], _process()


def _of(thing):
    if isinstance(thing, nn.Module):
        hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
        return (
            [
                (
                    name,
                    id(module),
                    module.training,
                    getattr(module, "inplace", None),
                    "forward" in vars(module),
                    [list(getattr(module, kind)) for kind in hooks],
                )
                for name, module in thing.named_modules()
            ],
            [(name, id(value), _of(value)) for name, value in (*thing.named_parameters(), *thing.named_buffers())],
        )
    if isinstance(thing, torch.Tensor):
        content = None if thing.is_meta or thing.is_quantized else thing.detach().cpu().contiguous().clone()
        if content is not None:
            content = torch.view_as_real(content) if content.is_complex() else content
            content = content.reshape(-1).view(torch.uint8).numpy().tobytes()
        grad = None if thing.grad is None else _of(thing.grad)
        return thing.dtype, tuple(thing.shape), thing.requires_grad, content, grad
    if isinstance(thing, np.ndarray):
        return thing.dtype, thing.shape, thing.tobytes()
    return copy.deepcopy(thing)


def _process():
    backends = torch.backends
    places = [
        "",
        "cudnn",
        "cudnn.conv",
        "cudnn.rnn",
        "cuda.matmul",
        "mkldnn",
        "mkldnn.conv",
        "mkldnn.rnn",
        "mkldnn.matmul",
    ]
    precision = []  # before 2.9 torch has no such places
    for place in places:
        with contextlib.suppress(AttributeError):
            precision.append(operator.attrgetter(f"{place}.fp32_precision".lstrip("."))(backends))
    kind, keys, *rest = np.random.get_state()
    return dict(
        torch=torch.get_rng_state().numpy().tobytes(),
        numpy=(kind, keys.tobytes(), *rest),
        python=random.getstate(),
        dtype=torch.get_default_dtype(),
        grad=torch.is_grad_enabled(),
        precision=precision,
        inference=torch.is_inference_mode_enabled(),
        autocast=torch.is_autocast_enabled("cpu"),
        deterministic=torch.are_deterministic_algorithms_enabled(),
        threads=torch.get_num_threads(),
        cudnn=(backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.deterministic),
        matmul=_matmul_precision(),
        numpy_errors=np.geterr(),
        print=vars(torch._tensor_str.PRINT_OPTS).copy(),
    )


def _matmul_precision():
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # once fp32_precision was set in this process, torch refuses to answer
        return None

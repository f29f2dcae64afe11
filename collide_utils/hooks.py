"""Running a network that is not ours: leaving no trace of it, and recording what its layers see and return."""

import dataclasses
import difflib
import itertools
import sys
import threading
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

_RUNNING = threading.RLock()


@dataclass
class Recording:
    """What the recorded layers saw and returned.

    Attributes
    ----------
    inputs, outputs : dict from a layer's name to the list of its inputs or outputs, one entry per call, each a detached
        copy. Where a layer takes or returns several tensors, in whatever structure, the first of them; None where there
        is no tensor.
    order : the names in the order of the calls; a layer that is called twice stands twice.
    """

    inputs: dict[str, list[torch.Tensor | None]] = field(default_factory=lambda: defaultdict(list))
    outputs: dict[str, list[torch.Tensor | None]] = field(default_factory=lambda: defaultdict(list))
    order: list[str] = field(default_factory=list)


@contextmanager
def record(model, layers=None):
    """Record the inputs and outputs of `layers` while the context is open; yields a :class:`Recording`.

    Parameters
    ----------
    layers : iterable of names from ``model.named_modules()``; by default every module without children, but for
        scripted ones, where nothing can be recorded.

    Copies are taken at once, so a later in-place operation does not change them, and the hooks are removed on exit,
    after an error too. Calls are recorded that the thread makes which opened the context.

    TypeError if `model` is not a module or `layers` one string; ValueError for a name that is not there, with the
    nearest ones, or of a scripted module.
    """
    check(model)
    modules = dict(model.named_modules())
    scripted = {name for name, module in modules.items() if isinstance(module, torch.jit.ScriptModule)}
    if isinstance(layers, str):
        raise TypeError(f"layers must be a list of names, not the one string {layers!r}")
    if layers is None:
        layers = [name for name, module in modules.items() if name not in scripted and not any(module.children())]
    layers = list(dict.fromkeys(layers))
    for name in layers:
        if name not in modules:
            known = difflib.get_close_matches(str(name), modules, n=5, cutoff=0.3) or list(modules)[1:6]
            raise ValueError(f"{type(model).__name__} has no layer {name!r}; near matches: {', '.join(known)}")
        if name in scripted:
            raise ValueError(
                f"layer {name!r} is scripted, so nothing can be recorded there: take the network from "
                "before torch.jit.script"
            )
    recording, thread = Recording(), threading.get_ident()

    def before(name, args):
        if threading.get_ident() == thread:
            recording.inputs[name].append(_first_copy(args))

    def after(name, output):
        if threading.get_ident() == thread:
            recording.outputs[name].append(_first_copy(output))
            recording.order.append(name)

    with ExitStack() as hooks:
        for name in layers:
            for handle in (
                modules[name].register_forward_pre_hook(
                    lambda _, args, kwargs, name=name: before(name, (*args, *kwargs.values())), with_kwargs=True
                ),
                modules[name].register_forward_hook(lambda _, args, out, name=name: after(name, out)),
            ):
                hooks.callback(handle.remove)
        yield recording


@contextmanager
def replaced(model, name, tensor, call=0):
    """Within the context the layer called `name` hands on a copy of `tensor` in its call number `call`, from 0.

    A :func:`record` that is opened inside sees what is handed on.
    """
    count = itertools.count()
    hook = model.get_submodule(name).register_forward_hook(lambda *_: tensor.clone() if next(count) == call else None)
    with hook:
        yield


@contextmanager
def untouched(model):
    """Within the context `model` runs in eval mode, exactly and repeatably; afterwards all is as it was before.

    Exactly means without autocast, without arithmetic that rounds float32 to fewer bits, and module by module, not
    compiled; repeatably, with torch's generators seeded. Restored are each module's training flag, its buffers, torch's
    random state and its flags. One thread at a time is let in, because flags belong to all. ValueError if a lazy layer
    has no weights yet.
    """
    check(model)
    if any(nn.parameter.is_lazy(tensor) for tensor in itertools.chain(model.parameters(), model.buffers())):
        raise ValueError(f"{type(model).__name__} has a lazy layer that has no weights yet: run it once first")
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})
    with ExitStack() as context:
        context.enter_context(_RUNNING)
        for kind in ("cuda", "cpu") if devices else ("cpu",):
            context.enter_context(torch.autocast(kind, enabled=False))
        context.enter_context(torch.random.fork_rng(devices))
        context.enter_context(_full_float32(devices))
        if "torch._dynamo" in sys.modules:  # compiled code does not call hooks that came after it
            context.enter_context(torch.compiler.set_stance("force_eager"))
        for generator in (torch.default_generator, *(torch.cuda.default_generators[device] for device in devices)):
            generator.manual_seed(0)
        for module in model.modules():
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    context.callback(_put_back, module, name, buffer, buffer.clone())
            if getattr(module, "training", False):
                context.callback(setattr, module, "training", True)
                module.training = False
        yield


def fed(model, images):
    """Return a copy of a tensor in the dtype and on the device of `model`: a network may write into what it is fed."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        if tensor.is_floating_point():
            return images.detach().to(tensor, copy=True)
    return images.detach().clone()


def tensors(value, path=(), above=()):
    """Yield ``(path, tensor)`` for all tensors in dicts, lists, tuples and objects with named fields, however nested.

    The path is the tuple of the keys, numbers and names of fields that lead there; `above` are the structures on it.
    """
    if any(value is one for one in above):
        return  # a structure that holds itself
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        fields = value
    elif hasattr(value, "_fields"):
        fields = value._asdict()
    elif isinstance(value, (list, tuple)):
        fields = dict(enumerate(value))
    elif dataclasses.is_dataclass(value):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    elif hasattr(value, "__dict__") and not isinstance(value, (type, nn.Module)) and not callable(value):
        fields = vars(value)
    else:
        return
    for key, inner in fields.items():
        yield from tensors(inner, (*path, key), (*above, value))


def check(model):
    """Raise TypeError if `model` is not a ``torch.nn.Module``."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"the model must be a torch.nn.Module, not {type(model).__name__}")


def first_tensor(value):
    """Return the first of :func:`tensors`, which stands for what a layer takes or returns; None if there is none."""
    return next((tensor for _, tensor in tensors(value)), None)


def _first_copy(value):
    first = first_tensor(value)
    return first if first is None else (first.dequantize() if first.is_quantized else first).detach().clone()


def _put_back(module, name, buffer, value):
    with torch.no_grad():
        setattr(module, name, buffer.copy_(value))


@contextmanager
def _full_float32(devices):
    backends = torch.backends
    if not hasattr(backends, "fp32_precision"):  # torch before 2.9
        places, word, full = ([backends.cudnn, backends.cuda.matmul] if devices else []), "allow_tf32", (False,)
    else:
        places = [backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul]
        places += [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul] if devices else []
        word, full = "fp32_precision", ("ieee", "none")
    kept = [(place, value) for place in places if (value := getattr(place, word)) not in full]
    try:
        for place, _ in kept:
            setattr(place, word, full[0])
        yield
    finally:
        for place, value in kept:
            setattr(place, word, value)

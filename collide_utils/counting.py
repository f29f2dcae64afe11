"""How many dimensions of their inputs the weights of a network do not see: the supplement's Table 1, and more."""

import copy
import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.utils import _pytree
from tqdm import tqdm

from collide_utils import _data, checkpoints, hooks, models, nullspace, symbol, weights
from collide_utils.jacobians import Implicit
from collide_utils.levelsets import LevelSet

_GEOMETRY = ("in_channels", "groups", "kernel_size", "stride", "dilation", "transposed")
_SUFFIXES = (".pt", ".pth", ".ckpt", ".tar", ".safetensors")


@dataclass(frozen=True)
class LayerCount:
    """A weight as :class:`~collide_utils.weights.LayerWeight` describes it, and the dimension of its null space.

    The weight's null space, of dimension ``nullity``, is that of one window. The layer's own, on whole images, has
    ``cell_nullity`` dimensions per cell of its stride (see :func:`~collide_utils.symbol.cell_nullity`), none at all for
    many layers whose windows overlap. A layer that is no convolution is its matrix: there the two are the same.
    """

    name: str
    kind: str
    groups: int
    rows: int
    columns: int
    nullity: int
    cell_nullity: int

    @property
    def wide(self):
        """Whether the weight has more columns than rows, and so a null space whatever its entries are."""
        return self.columns > self.rows


@dataclass(frozen=True)
class NullityCount:
    """One row of the supplement's Table 1.

    Attributes
    ----------
    name : the network's.
    n : number of its weights.
    nu : ν, the number of weights with a null space (rank < columns; Lemma 4.6 of the paper).
    mu : μ, the number of weights with more columns than rows (Lemma 4.9), which all have one.
    total_nullity : sum of the nullities. The blocks of a grouped convolution count together, as one weight.
    first_nullity : nullity of the first weight.
    nu_layers : as ν, but counting layers that have a null space on images (``cell_nullity`` of :class:`LayerCount`).
    total_columns, first_columns : the numbers of columns that the two nullities are part of.
    skipped : names of parameters with two or more dimensions that were not counted: embeddings and unknown layers.
    error : why the network could not be counted, or None; the numbers are then None.
    """

    name: str
    n: int | None = None
    nu: int | None = None
    mu: int | None = None
    total_nullity: int | None = None
    first_nullity: int | None = None
    nu_layers: int | None = None
    total_columns: int | None = None
    first_columns: int | None = None
    skipped: tuple[str, ...] = ()
    error: str | None = None

    @property
    def nu_percent(self):
        """100 ν / n."""
        return 100 * self.nu / self.n

    @property
    def mu_percent(self):
        """100 μ / n."""
        return 100 * self.mu / self.n

    @property
    def truncated_percents(self):
        """Both percentages with their decimals cut off, not rounded: as the supplement prints them."""
        return math.floor(self.nu_percent), math.floor(self.mu_percent)


def per_layer(model, rtol=None, executor=None, input_shape=None):
    """Return a list of :class:`LayerCount`, one for each weight of `model`, in the order of ``weights.layer_weights``.

    Parameters
    ----------
    model : a module, counted with its weights; or a torchvision builder's name, counted from its shapes as if every
        weight had full rank, which is a lower bound and makes no weights. A module on the meta device counts like that.
    rtol : relative tolerance of :func:`~collide_utils.nullspace.nullity`; nothing to shapes.
    executor : ``concurrent.futures.Executor`` or alike that shares the weights out; by default they are counted here.
    input_shape : of what `model` takes, for the order of its weights, as in ``weights.layer_weights``.
    """
    network = _network(model)
    found = weights.layer_weights(network, input_shape)
    layers = [network.get_submodule(weight.name) for weight in found]
    geometries = [
        {key: getattr(layer, key) for key in _GEOMETRY} if hasattr(layer, "kernel_size") else None for layer in layers
    ]
    tasks = (executor.map if executor else map)(partial(_nullities, rtol=rtol), [w.matrix for w in found], geometries)
    bar = tqdm(tasks, total=len(found), desc="weights", leave=False, delay=10, disable=None)
    return [
        LayerCount(weight.name, weight.kind, *weight.matrix.shape, *nullities)
        for weight, nullities in zip(found, bar, strict=True)
    ]


def count(model, rtol=None, executor=None, input_shape=None):
    """Return the :class:`NullityCount` of a network; arguments as :func:`per_layer`, which has the rows behind it."""
    network = _network(model)
    rows = per_layer(network, rtol, executor, input_shape)
    return NullityCount(
        model if isinstance(model, str) else type(model).__name__,
        len(rows),
        sum(row.nullity > 0 for row in rows),
        sum(row.wide for row in rows),
        sum(row.nullity for row in rows),
        rows[0].nullity,
        sum(row.cell_nullity > 0 for row in rows),
        sum(row.groups * row.columns for row in rows),
        rows[0].groups * rows[0].columns,
        tuple(weights.uncounted_parameters(network)),
    )


def atlas(names=None, executor=None):
    """Count torchvision's networks from their shapes; return a list of :class:`NullityCount`, one for each name.

    By default these are all builders: classification, segmentation, detection, video, optical flow. Quantised ones are
    left out, because their weights are no parameters. `executor` shares the networks out.
    """
    return list((executor.map if executor else map)(count, models.builders() if names is None else names))


def count_folder(folder, rtol=None, executor=None):
    """Count every checkpoint in `folder`; return a list of :class:`NullityCount`, named and sorted by file name.

    Files are those that end in .pt, .pth, .ckpt, .tar or .safetensors. The architecture is the longest name of a
    torchvision classifier that the file's name begins with (``resnet50_l2_eps0.01.ckpt`` holds a ``resnet50``), or what
    a file of one of the shipped networks says itself. A file that cannot be read has a row with its ``error``.
    `executor` shares the files out. NotADirectoryError if `folder` is none, FileNotFoundError if it has no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: not a folder")
    paths = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"{folder}: no file that ends in {', '.join(_SUFFIXES)}")
    tasks = (executor.map if executor else map)(partial(_count_file, rtol=rtol), paths)
    return list(tqdm(tasks, total=len(paths), desc="checkpoints", delay=10, disable=None))


def first_guaranteed(model, input_shape=None):
    """Return ``(layer, outputs)``: from which layer images must collide by count alone, whatever the weights are.

    That is the first layer with fewer outputs than the image has pixel values through which everything passes that the
    network makes of the image: no shortcut leads around it. Of a module that is called several times all calls count
    together; ``"logits"`` is what the network returns. None if that too has as many outputs as pixel values.

    Parameters
    ----------
    model : a module, or the name of a torchvision image classifier. It runs on the meta device: nothing is computed.
    input_shape : ``(C, H, W)``; by default ``(3, size, size)`` of ``model.input_size`` or of the classifier's preset.
    """
    network = copy.deepcopy(_network(model)).to("meta").eval().requires_grad_(False)
    if input_shape is None:
        input_shape = _preset_shape(model) if isinstance(model, str) else weights.needed_shape(model)
    image = torch.zeros(1, *input_shape, device="meta", requires_grad=True)
    with hooks.record(network, [name for name, _ in network.named_modules() if name]) as recording:
        logits = hooks.first_tensor(network(image.clone()))
    for name in reversed(dict.fromkeys(reversed(recording.order))):  # in the order of the last calls
        outputs = sum(output.numel() for output in recording.outputs[name])
        if outputs < image.numel() and not _bypassed(network, name, image):
            return name, outputs
    return ("logits", logits.numel()) if logits.numel() < image.numel() else None


def active_outputs(model, layer, image):
    """Return how many outputs of `layer` react to the pixels of `image`, and no two of them in the same way.

    What is zero after a ReLU does not react, and the windows of a max pool that share a winner react as one, so this
    bounds the rank of the layer's Jacobian: with fewer active outputs than pixel values, the image can move and leave
    the layer as it is. Counted as the distinct nonzero entries of the Jacobian's product with a random direction.
    Arguments and errors as in :class:`~collide_utils.levelsets.LevelSet`.
    """
    level = LevelSet(model, layer, image)
    direction = torch.rand(level.image.numel(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reactions = Implicit(level.outputs, level.image).forward(direction.to(level.image))
    return len(reactions[reactions != 0].unique())


def published():
    """Return the supplement's Table 1 as it was published: a list of dicts, one for each row.

    ``model`` is the row's title and ``builder`` torchvision's name of the architecture; ``nu``, ``nu_percent``, ``mu``,
    ``mu_percent``, ``total_nullity`` and ``first_nullity`` are its whole numbers, as in :class:`NullityCount`.
    """
    return _data.table("published", "table1.csv")


def _preset_shape(name):
    from torchvision.models import get_model_weights

    preset = get_model_weights(name).DEFAULT.transforms()
    if not hasattr(preset, "crop_size"):
        raise ValueError(f"{name} is no image classifier and takes images of many sizes; give input_shape=(C, H, W)")
    return 3, preset.crop_size[0], preset.crop_size[0]


def _bypassed(network, layer, image):
    """Whether the network's output depends on the image otherwise than through `layer`.

    Autograd knows, also without values: those that :mod:`~collide_utils.maps.theory` compares are not there yet.
    """

    def cut(_, __, output):
        first = hooks.first_tensor(output)
        return _pytree.tree_map(lambda part: part.detach() if part is first else part, output)

    with network.get_submodule(layer).register_forward_hook(cut):
        return hooks.first_tensor(network(image.clone())).requires_grad


def _network(model):
    return models.shapes_only(model) if isinstance(model, str) else model


def _nullities(matrix, geometry, rtol):
    """Return the nullity of a matrix and, where it is that of a convolution, that of the layer per cell."""
    groups, rows, columns = matrix.shape
    nullity = groups * max(0, columns - rows) if matrix.is_meta else nullspace.nullity(matrix, rtol)
    if geometry is None:
        return nullity, nullity
    conv = SimpleNamespace(**geometry)
    weight = matrix.mT if conv.transposed else matrix
    conv.weight = weight.reshape(groups * weight.shape[1], -1, *conv.kernel_size)
    if symbol.residues(conv) < math.prod(conv.kernel_size) or matrix.is_meta:
        return nullity, symbol.cell_nullity(conv, rtol)
    # Every entry of the window has a pixel of the cell for itself, so the symbol has the rank of the matrix.
    cell = conv.in_channels * (1 if conv.transposed else math.prod(conv.stride))
    return nullity, cell - (groups * columns - nullity)


def _count_file(path, rtol):
    try:
        return replace(count(checkpoints.load_checkpoint(path), rtol), name=path.name)
    except Exception as error:  # whatever is wrong with one file, the others count
        return NullityCount(path.name, error=str(error) or type(error).__name__)

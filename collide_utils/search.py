"""The null-space search: from a model and an image to an image with the same features."""

import copy
import math
import warnings
from functools import cached_property

import torch
from torch import nn

from collide_utils import hooks, images, nullspace, symbol, weights, windows
from collide_utils.projection import nearest_in_box
from collide_utils.rectified import Network, Rectified

_ROUNDING = 1e-9  # a relative change of features in float64 that is not rounding, at the multiplier below
_BETA = 8192  # of the colliding image that is tried


class OverlapWarning(UserWarning):
    """The windows of a first layer overlap: null-space vectors of its weight, tiled, are no collisions of the layer."""


class ClampWarning(UserWarning):
    """The network changes pixels outside [0, 1] before its first layer, so that only images inside collide."""


class NullSpaceSearch:
    """Perturbations of an image that the first layer of `model` maps to zero (the paper's null-space search).

    Parameters
    ----------
    model : network whose first convolution or linear layer sees pixels of the image, each up to an affine map such as a
        normalisation; cut into patches too, for example (:func:`~collide_utils.windows.pixel_weight`).
    input_shape : ``(C, H, W)`` of its images, by default :func:`~collide_utils.weights.default_shape`. Films
        ``(C, T, H, W)`` and sounds ``(C, T)`` are images here too.
    rtol : what counts as zero, as in :func:`~collide_utils.nullspace.matrix_rank`; by default float64's rule.

    Attributes
    ----------
    layer : the first layer's :class:`~collide_utils.weights.LayerWeight`, in float64.
    geometry : its :class:`~collide_utils.windows.Geometry`.
    weight : float64 tensor ``(C_out, C·h·w)``, the matrix that acts on a window of pixels: the layer's own, its columns
        scaled as the normalisation scales the pixels, and in their order.
    basis : orthonormal float64 tensor ``(C·h·w, nullity)`` of the windows that `weight` maps to zero.
    complement : orthonormal float64 tensor ``(C·h·w, rank)`` of their orthogonal complement, the row space of `weight`.

    ValueError if the first layer has no null space, does not see the image as described, or is not alone in reading it.
    Where windows overlap an :class:`OverlapWarning` says that a vector of the basis is null at one window only, so that
    the results collide in the weight's null space but not in the layer. Where the network clamps its images, found by
    running it on two colliding ones, a :class:`ClampWarning` says that only images in [0, 1] collide, as those of
    :meth:`toward` and, with a perturbation that :meth:`shrink` has scaled, of :meth:`collide`.
    """

    def __init__(self, model, input_shape=None, rtol=None):
        hooks.check(model)
        if input_shape is None:
            input_shape = weights.needed_shape(model)
        try:
            twin = copy.deepcopy(model).double().eval()
        except (RuntimeError, TypeError) as error:
            raise ValueError(
                f"{type(model).__name__} cannot be copied ({type(error).__name__}); if that is because of "
                "nn.utils.weight_norm, take the one of nn.utils.parametrizations"
            ) from error
        with hooks.untouched(twin):
            self.layer = weights.first_weight(twin, input_shape)
            self.geometry, self.weight = windows.pixel_weight(twin, self.layer, input_shape)
            self.basis, self.complement = nullspace.null_and_row_space(self.weight, rtol)
            if not self.basis.shape[1]:
                raise ValueError(
                    f"the first layer, {self.layer}, has no null space: its rank is its number of columns. "
                    "symbol.quietest finds what it answers least, levelsets.LevelSet collisions of a later layer"
                )
            inside, outside = self._confirm(twin)
        self._networks = [Network(twin, self.layer.name, self.weight)]
        if self.geometry.overlapping:
            warnings.warn(
                f"the windows of the first layer, {self.layer.name}, overlap (window {self.geometry.window}, stride "
                f"{self.geometry.stride}): a tiled null-space vector is not a collision of this layer; quietest() "
                "finds what it answers least, levelsets.LevelSet collisions of a later layer",
                OverlapWarning,
                stacklevel=2,
            )
        elif rtol is None and inside > _ROUNDING:  # with another tolerance, null means as small as it says
            raise ValueError(
                f"the first layer, {self.layer}, does not compute what its weight says: a perturbation "
                f"from the weight's null space changes its output by {inside:.1e}"
            )
        elif rtol is None and outside > _ROUNDING:
            warnings.warn(
                f"{type(model).__name__} changes pixels outside [0, 1] before its first layer, {self.layer.name}: a "
                f"colliding image that leaves [0, 1] changes its output by {outside:.1e}, one inside by {inside:.1e}",
                ClampWarning,
                stacklevel=2,
            )

    def repeat(self, index):
        """Return basis vector `index` in every window: perturbation ``(C, H, W)``, float64, windows of unit norm."""
        return self.mosaic(torch.full(self.geometry.grid, index))

    def mosaic(self, indices):
        """Return the perturbation ``(C, H, W)`` with basis vector ``indices[i, j]`` in window (i, j).

        `indices` is an integer tensor of shape ``geometry.grid``; IndexError for a vector that does not exist.
        """
        indices = torch.as_tensor(indices)
        kind = (indices.is_floating_point(), indices.is_complex(), indices.dtype == torch.bool)
        if any(kind) or tuple(indices.shape) != self.geometry.grid:
            raise ValueError(
                f"indices must be integers of shape {self.geometry.grid}, one per window, not "
                f"{indices.dtype} of shape {tuple(indices.shape)}"
            )
        count = self.basis.shape[1]
        wrong = indices[(indices < 0) | (indices >= count)]
        if len(wrong):
            raise IndexError(f"no basis vector {int(wrong[0])}; there are {count}, numbered from 0")
        return windows.tile(self.geometry, self.basis.T[indices.long().to(self.basis.device)])

    def join(self, *others):
        """Return a search for images that collide in this network and in those of `others` at once.

        Its null space is what theirs share, which may be nothing: there may be no collision then but behind a ReLU
        (`after` in :meth:`random` and :meth:`toward`). Its ``weight`` is theirs, one below the other, its ``layer``
        this one's. ValueError if the windows of the networks differ.
        """
        for other in others:
            if other.geometry != self.geometry:
                raise ValueError(
                    f"the networks must see the same windows, not {self.geometry.window} of {self.geometry.shape} with "
                    f"stride {self.geometry.stride} and {other.geometry.window} of {other.geometry.shape} with stride "
                    f"{other.geometry.stride}"
                )
        joint, searches = copy.copy(self), (self, *others)
        joint._networks = [network for search in searches for network in search._networks]
        joint.weight = torch.cat([search.weight for search in searches])
        joint.basis = nullspace.shared_null_space(*(search.complement.T for search in searches))
        whole = torch.eye(len(joint.basis)).to(joint.basis)
        joint.complement = nullspace.null_space(joint.basis.T) if joint.basis.numel() else whole
        return joint

    def random(self, generator=None, image=None, after=None):
        """Return a mosaic of basis vectors drawn uniformly, one per window, with a ``torch.Generator``.

        With `image` and `after`, a direction in which that image may go as far as one likes while the layer `after`
        returns the same, as in :meth:`toward`: drawn as white noise, and in each window projected on these directions
        and scaled to norm 1. A window that has none stays 0; ValueError if no window has one, or without a null space.
        """
        if (image is None) != (after is None):
            raise ValueError("image and after go together: what a ReLU forgets depends on the image")
        if after is not None:
            drawn = self._behind(self._check("image", image), after).directions(generator)
            if not drawn.any():
                raise ValueError(f"no window of this image has a direction that {after!r} does not see")
            return windows.tile(self.geometry, drawn.view(*self.geometry.grid, -1))
        if not self.basis.shape[1]:
            raise ValueError("the networks share no null space at their first layers; there may be room after a ReLU")
        return self.mosaic(torch.randint(self.basis.shape[1], self.geometry.grid, generator=generator))

    def quietest(self, k=1):
        """Return ``(gains, perturbations)``: `k` orthonormal changes of an image that the first layer answers least.

        They are what :func:`symbol.quietest <collide_utils.symbol.quietest>` finds for the layer as it acts on pixels,
        tensors ``(k,)`` and ``(k, C, H, W)``; where windows overlap, the next best thing to a null space.
        """
        g = self.geometry
        conv = getattr(nn, f"Conv{len(g.axes)}d")(
            g.channels, len(self.weight), g.window, g.stride, g.padding, g.dilation, bias=False, device="meta"
        )
        conv.weight = nn.Parameter(self.weight.view(conv.weight.shape))
        return symbol.quietest(conv, g.shape[1:], k)

    def collide(self, image, perturbation, beta):
        """Return ``image + beta/255 · perturbation`` in float64, not clipped: the network must see it as it is.

        Parameters
        ----------
        image, perturbation : floating-point tensors ``(C, H, W)``; the image in [0, 1].
        beta : the perturbation multiplier, the norm of each window's change in 8-bit grey levels; finite, at least 0.
        """
        image, perturbation = self._check("image", image), self._check("perturbation", perturbation)
        if not (math.isfinite(beta) and beta >= 0):
            raise ValueError(f"beta must be finite and at least 0, not {beta!r}")
        return image + beta / 255 * perturbation

    def shrink(self, image, perturbation, beta):
        """Return ``(shrunk, betas)``: `perturbation` with each window scaled so that :meth:`collide` stays in [0, 1].

        A null-space vector stays one when it is scaled, so the collision is as exact as before, which clipping would
        not leave it. ``betas``, of shape ``geometry.grid``, is the multiplier that each window keeps: `beta`, or the
        largest that fits, which is 0 where a pixel is at its limit. Pixels that no window sees are left unperturbed.
        Parameters and errors are those of :meth:`collide`; ValueError too if the image leaves [0, 1].
        """
        self._check_valid(image)
        self.collide(image, perturbation, beta)  # for its errors
        start, change = (windows.unfold(self.geometry, value.double()) for value in (image, perturbation))
        change = beta / 255 * change
        room = torch.where(change > 0, (1 - start) / change, torch.where(change < 0, -start / change, torch.inf))
        # A few units less in the last place, so that rounding leaves no pixel outside.
        kept = (room.amin(-1) * (1 - 8 * torch.finfo(room.dtype).eps)).clamp(max=1)
        shrunk = windows.unfold(self.geometry, perturbation.double()) * kept[..., None]
        return windows.fold(self.geometry, shrunk), beta * kept

    def toward(self, image, target, after=None):
        """Return the valid image nearest (L2) to `target` that differs from `image` by null-space vectors alone.

        Or, with `after`, the nearest of which the layer of that name returns the same. It may be any that returns an
        affine function of each output of the first layer, with a ReLU or without. After a ReLU only what is active on
        the image is kept, and what is silent stays silent, so that one comes nearer; see
        :mod:`~collide_utils.rectified`.

        Valid means in [0, 1], which holds exactly; the rest holds up to rounding, in every window. Float64. What a
        window sees in the padding stays as it is, and pixels that no window sees take the target's value, clipped.
        Where windows overlap they are the tiles of :func:`~collide_utils.windows.tile`, as in :meth:`random`, and the
        result collides no more than that does.

        Parameters
        ----------
        image, target : floating-point tensors ``(C, H, W)``. The image must lie in [0, 1] (ValueError); the target need
            not.
        after : name of a layer, or of several networks that were joined a list of names, if they differ.

        The windows are independent convex programs, solved by :func:`~collide_utils.projection.nearest_in_box`.
        """
        image, target = self._check_valid(image), self._check("target", target).to(image)
        inside = self._inside.to(image)
        points, targets = (windows.unfold(self.geometry, value) for value in (image, target))
        behind = None if after is None else self._behind(image, after)
        found = nearest_in_box(
            *(value.flatten(0, -2) for value in (targets, points)),
            self.complement.T.to(image) if behind is None else behind.rows,
            torch.zeros_like(inside).flatten(0, -2),
            inside.flatten(0, -2),
            None if behind is None else behind.limits,
        )
        seen = windows.fold(self.geometry, inside) > 0
        return torch.where(seen, windows.fold(self.geometry, found.view_as(points)), target.clamp(0, 1))

    def seen(self, image):
        """Return what the network sees of an image ``(C, H, W)``: without its part in the null space, in float64.

        Each window w becomes w − V Vᵀ w with the basis V, the smallest window with the same features; of one that
        reaches into the padding only what lies inside counts, and pixels that no window sees become 0. Colliding images
        look the same, up to rounding. Not a valid image: it may leave [0, 1]. Where windows overlap these are the tiles
        of :func:`~collide_utils.windows.tile`.
        """
        image = self._check("image", image)
        cut, rows = windows.unfold(self.geometry, image), self.complement.to(image)
        if self._inside.all():
            return windows.fold(self.geometry, cut @ rows @ rows.T)
        cut, inside = cut.flatten(0, -2), self._inside.flatten(0, -2)
        projected = torch.zeros_like(cut)
        for mask in inside.unique(dim=0):
            here, part = (inside == mask).all(1), rows[mask]
            back = part.T if mask.all() else torch.linalg.pinv(part)  # whole rows are orthonormal
            projected[here[:, None] & mask] = (cut[here][:, mask] @ part @ back).flatten()
        return windows.fold(self.geometry, projected.view(*self.geometry.grid, -1))

    @cached_property
    def _inside(self):
        """Which numbers of the windows lie inside the image and not in the padding, in the shape of the windows."""
        return (self.geometry.places >= 0).to(self.basis.device)

    def _behind(self, image, after):
        names = [after] * len(self._networks) if isinstance(after, str) else list(after)
        if len(names) != len(self._networks):
            raise ValueError(
                f"after must name one layer, or one for each of {len(self._networks)} networks, not {after!r}"
            )
        return Rectified(self._networks, self.geometry, image.to(self.weight), names)

    def _confirm(self, twin):
        """Run the network on colliding images, and return how much its first layer's output changes: inside [0, 1], and
        outside. ValueError if what follows changes although that output is held: then something else reads the image.
        """
        generator = torch.Generator().manual_seed(0)
        image = torch.rand(self.geometry.shape, generator=generator, dtype=torch.float64).to(self.basis)
        v = self.random(generator)
        valid, invalid = (self.collide(image, w, _BETA) for w in (self.shrink(image, v, _BETA)[0], v))
        layer = twin.get_submodule(self.layer.name)
        first, wanted = _run(twin, layer, torch.stack([image, image]))
        second, found = _run(twin, layer, torch.stack([valid, invalid]), first)
        pairs = zip(hooks.tensors(wanted), hooks.tensors(found), strict=True)
        if any(_change(a, b) > _ROUNDING for (_, a), (_, b) in pairs):
            raise ValueError(
                f"the first layer, {self.layer}, is not alone in reading the image: the network's output "
                "changes with the image although that layer's output is held, so its null space is not "
                "one of the network"
            )
        return tuple(max(_change(a[k], b[k]) for a, b in zip(first, second, strict=True)) for k in (0, 1))

    def _check(self, what, value):
        images.check(value, self.geometry.shape, what)
        return value.double()

    def _check_valid(self, image):
        image = self._check("image", image)
        if image.min() < 0 or image.max() > 1:
            found = f"[{float(image.min()):.3g}, {float(image.max()):.3g}]"
            raise ValueError(f"the image must lie in [0, 1], not in {found}")
        return image


def _run(model, layer, images, held=None):
    """Return every output of `layer`, and the model's output while the layer hands on what is `held` instead."""
    outputs = []

    def note(_, __, output):
        outputs.append(output.clone())
        return None if held is None else held[len(outputs) - 1].clone()

    handle = layer.register_forward_hook(note)
    try:
        with torch.no_grad():
            return outputs, model(images)
    finally:
        handle.remove()


def _change(first, second):
    if first.shape != second.shape:
        return math.inf
    return float((second - first).double().norm() / first.double().norm().clamp(min=1e-300))

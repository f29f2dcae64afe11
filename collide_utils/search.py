"""The null-space search: from a model and an image to an image with the same features."""


import copy
import math
import warnings

import torch

from collide_utils import images, nullspace, weights, windows
from collide_utils.projection import nearest_in_box


class OverlapWarning(UserWarning):
    """The windows of a first layer overlap: null-space vectors of its weight, tiled, are no collisions of the layer."""


class NullSpaceSearch:
    """Perturbations of an image that the first layer of `model` maps to zero (the paper's null-space search).

    Parameters
    ----------
    model : network whose first convolution or linear layer sees the image itself, up to an affine map of each channel,
        such as a normalisation.
    input_shape : ``(C, H, W)`` of its images; by default :func:`~collide_utils.weights.default_shape`.
    rtol : what counts as zero, as in :func:`~collide_utils.nullspace.matrix_rank`; by default float64's rule.

    Attributes
    ----------
    layer : the first layer's :class:`~collide_utils.weights.LayerWeight`, in float64.
    geometry : its :class:`~collide_utils.windows.Geometry`.
    weight : float64 tensor ``(C_out, C·h·w)``, the matrix that acts on a window of pixels: the layer's own, its columns
        scaled as the normalisation scales the pixels (:func:`~collide_utils.windows.pixel_slope`).
    basis : orthonormal float64 tensor ``(C·h·w, nullity)`` of the windows that `weight` maps to zero.
    complement : orthonormal float64 tensor ``(C·h·w, rank)`` of their orthogonal complement, the row space of `weight`.

    ValueError if the first layer has no null space, or does not see the image as described. Where windows overlap an
    :class:`OverlapWarning` says that a vector of the basis is null at one window only, so that the results collide in
    the weight's null space but not in the layer.
    """

    def __init__(self, model, input_shape=None, rtol=None):
        if input_shape is None:
            if not hasattr(model, "input_size"):
                raise ValueError(f"{type(model).__name__} has no input_size; give input_shape=(C, H, W)")
            input_shape = weights.default_shape(model)
        twin = copy.deepcopy(model).double().eval()
        self.layer = weights.first_weight(twin, input_shape)
        self.geometry = windows.geometry(twin.get_submodule(self.layer.name), input_shape)
        slope = windows.pixel_slope(twin, self.layer.name, self.geometry)
        blocks = self.layer.matrix * slope.view(len(self.layer.matrix), 1, -1)
        self.weight = torch.block_diag(*blocks)
        self.basis = nullspace.null_space(blocks, rtol)
        if not self.basis.shape[1]:
            raise ValueError(f"the first layer, {self.layer}, has no null space: its rank is its number of columns")
        self.complement = nullspace.null_space(self.basis.T)
        if self.geometry.overlapping:
            warnings.warn(
                f"the windows of the first layer, {self.layer.name}, overlap (window {self.geometry.window}, stride "
                f"{self.geometry.stride}): a tiled null-space vector is not a collision of this layer", OverlapWarning,
                stacklevel=2)

    def repeat(self, index):
        """Return basis vector `index` in every window: perturbation ``(C, H, W)``, float64, windows of unit norm."""
        return self.mosaic(torch.full(self.geometry.grid, index))

    def mosaic(self, indices):
        """Return the perturbation ``(C, H, W)`` with basis vector ``indices[i, j]`` in window (i, j).

        `indices` is an integer tensor of shape ``geometry.grid``; IndexError for a vector that does not exist.
        """
        indices = torch.as_tensor(indices)
        if indices.is_floating_point() or tuple(indices.shape) != self.geometry.grid:
            raise ValueError(f"indices must be integers of shape {self.geometry.grid}, one per window, not "
                             f"{indices.dtype} of shape {tuple(indices.shape)}")
        count = self.basis.shape[1]
        wrong = indices[(indices < 0) | (indices >= count)]
        if len(wrong):
            raise IndexError(f"no basis vector {int(wrong[0])}; there are {count}, numbered from 0")
        return windows.tile(self.geometry, self.basis.T[indices.to(self.basis.device)])

    def random(self, generator=None):
        """Return a mosaic of basis vectors drawn uniformly, one per window, with a ``torch.Generator``."""
        return self.mosaic(torch.randint(self.basis.shape[1], self.geometry.grid, generator=generator))

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
        change = windows.unfold(self.geometry, self.collide(image, perturbation, beta) - image.double())
        start = windows.unfold(self.geometry, image.double())
        room = torch.where(change > 0, (1 - start) / change, torch.where(change < 0, -start / change, torch.inf))
        kept = room.amin(-1).clamp(max=1)
        shrunk = windows.unfold(self.geometry, perturbation.double()) * kept[:, :, None]
        return windows.fold(self.geometry, shrunk), beta * kept

    def toward(self, image, target):
        """Return the valid image nearest (L2) to `target` that differs from `image` by null-space vectors alone.

        Valid means in [0, 1], which holds exactly; the rest holds up to rounding, in every window. Float64. What a
        window sees in the padding stays as it is, and pixels that no window sees take the target's value, clipped.
        Where windows overlap they are the tiles of :func:`~collide_utils.windows.tile`, as in :meth:`random`, and the
        result collides no more than that does.

        Parameters
        ----------
        image, target : floating-point tensors ``(C, H, W)``. The image must lie in [0, 1] (ValueError); the target need
            not.

        The windows are independent convex programs, solved by :func:`~collide_utils.projection.nearest_in_box`;
        RuntimeError if that does not converge.
        """
        image, target = self._check_valid(image), self._check("target", target).to(image)
        inside = windows.unfold(self.geometry, torch.ones_like(image))
        points, targets = (windows.unfold(self.geometry, value) for value in (image, target))
        rows = self.complement.to(image)
        found = nearest_in_box(*(value.flatten(0, 1) for value in (targets, points)), rows,
                               torch.zeros_like(inside).flatten(0, 1), inside.flatten(0, 1))
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
        cut, inside = (windows.unfold(self.geometry, value).flatten(0, 1) for value in (image, torch.ones_like(image)))
        projected = torch.zeros_like(cut)
        for mask in inside.bool().unique(dim=0):
            here, rows = (inside.bool() == mask).all(1), self.complement.to(image)[mask]
            back = rows.T if mask.all() else torch.linalg.pinv(rows)  # whole rows are orthonormal
            projected[here[:, None] & mask] = (cut[here][:, mask] @ rows @ back).flatten()
        return windows.fold(self.geometry, projected.view(*self.geometry.grid, -1))

    def _check(self, what, value):
        images.check(value, self.geometry.shape, what)
        return value.double()

    def _check_valid(self, image):
        image = self._check("image", image)
        if image.min() < 0 or image.max() > 1:
            found = f"[{float(image.min()):.3g}, {float(image.max()):.3g}]"
            raise ValueError(f"the image must lie in [0, 1], not in {found}")
        return image

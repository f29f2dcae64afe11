"""All the images that a network cannot tell from a given one: its level set, at any layer, and how to reach it.

Let F be a network up to a layer, with m outputs of an image's n pixel values. The level set of x is {y : F(y) = F(x)}.
Inside a region where no ReLU and no max pool switches, F is affine with Jacobian J, so the level set of x contains
x + null(J) there, of dimension n − rank J ≥ n − m; for smooth networks the implicit function theorem says the same
where the rank is locally constant. So a layer with fewer outputs than pixel values collides, whatever its weights are.

To reach such images, :meth:`LevelSet.nearest` comes close by first-order steps and :meth:`LevelSet.land` makes equality
exact. Three things make that work. The approach measures the distance from the level set as ‖J⁺(F(y) − F(x))‖, in
pixels rather than in features, so that no feature counts more than another. It keeps Lagrange multipliers, so that it
ends near the level set and not at a compromise. And Newton's step respects the box [0, 1] while it is computed, not
after.
"""

import copy
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from tqdm import tqdm

from collide_utils import hooks, images, nullspace
from collide_utils.jacobians import Dense, Implicit, least_change, rows

_LANDED = 1e-13  # relative change of the features
_DENSE = 4096  # outputs up to which the Jacobian is formed
_NEWTON, _DITHERS = 60, 4
_GREY = 1 / 255


@dataclass(frozen=True)
class Stop:
    """An image near or on a level set.

    Attributes
    ----------
    image : float64 tensor ``(C, H, W)`` in [0, 1].
    change : ``‖F(image) − F(x)‖ / ‖F(x)‖``; the stop has ``landed`` where this is at most 1e-13.
    distance : RMS distance to the target, in units of the pixel range.
    """

    image: torch.Tensor
    change: float
    distance: float

    @property
    def landed(self):
        """Whether the features are equal up to rounding."""
        return self.change <= _LANDED


class Dimension(NamedTuple):
    """The dimension of a level set, ``pixels - rank``, and the relative tolerance of that rank."""

    pixels: int
    rank: int
    rtol: float

    @property
    def free(self):
        """Dimensions in which an image may move without changing the features, as long as no region is left."""
        return self.pixels - self.rank


class LevelSet:
    """The images that `model` cannot tell from `image` from `layer` on.

    Parameters
    ----------
    model : a network of images ``(1, C, H, W)``; copied, in eval mode, in float64 and for the approach in float32.
    layer : a name from ``model.named_modules()``, or ``"logits"`` for what the model returns. Of a layer that is called
        several times, every call; where a layer returns several tensors, the first.
    image : floating-point tensor ``(C, H, W)`` in [0, 1].

    ValueError for an unknown layer, an image outside [0, 1] or with other than three dimensions, or features that are
    not finite; TypeError for anything but a module and floating-point tensors.
    """

    def __init__(self, model, layer, image):
        hooks.check(model)
        self._exact = _frozen(model, torch.float64)
        self._quick = _frozen(model, torch.float32)
        self.layer, self.image = layer, hooks.fed(self._exact, _valid(image))
        self._calls, self._products = 0, math.inf
        if layer != "logits":
            with torch.no_grad(), hooks.record(self._exact, [layer]) as recording:
                self._exact(self.image[None].clone())
            self._calls = len(recording.order)
            if not self._calls:
                raise ValueError(f"the layer {layer!r} is not called for this image")
        self.features = self.outputs(self.image)
        if not self.features.isfinite().all():
            raise ValueError(f"the features at {layer!r} are not finite")

    def change(self, image):
        """Return the relative change of the features, ``‖F(image) − F(x)‖ / ‖F(x)‖`` (absolute if F(x) is zero)."""
        return float(self._residual(_valid(image, self.image.shape).to(self.image)).norm()) / self._size()

    def dimension(self, rtol=None):
        """Return the :class:`Dimension` at the image, by the rank of the Jacobian (``nullspace.matrix_rank``).

        ValueError for a layer with more than 4096 outputs; ``counting.active_outputs`` bounds its rank.
        """
        if len(self.features) > _DENSE:
            raise ValueError(
                f"{self.layer!r} has {len(self.features)} outputs; the rank is taken of at most {_DENSE}. "
                "counting.active_outputs gives a bound"
            )
        jacobian = self._rows(self.image, self._exact)
        if rtol is None:
            rtol = max(jacobian.shape) * torch.finfo(jacobian.dtype).eps
        return Dimension(jacobian.shape[1], nullspace.matrix_rank(jacobian, rtol), rtol)

    def tangent(self, direction):
        """Return the part of `direction` ``(C, H, W)`` that the features do not see at the image: J times it is zero.

        Up to a few thousand outputs from an orthonormal basis of J's rows, to rounding; above by LSMR (Fong and
        Saunders 2011), to about 1e-12 of the direction where the Jacobian is well conditioned.
        """
        images.check(direction, self.image.shape, "direction")
        direction = direction.to(self.image)
        if len(self.features) > _DENSE:
            return Implicit(self.outputs, self.image).unseen(direction.flatten()).view_as(direction)
        q, r = torch.linalg.qr(self._rows(self.image, self._exact).T)
        u, s, _ = torch.linalg.svd(r, full_matrices=False)
        rows = q @ u[:, s > max(q.shape) * torch.finfo(s.dtype).eps * s.max()]
        flat = direction.flatten()
        for _ in range(2):  # the second pass takes what the first one's rounding left
            flat = flat - rows @ (rows.T @ flat)
        return flat.view_as(direction)

    def land(self, image):
        """Return the image nearby whose features equal those of ``self.image`` up to rounding, in [0, 1] exactly.

        Newton's method: each step is the smallest that repairs the features to first order without leaving [0, 1], cut
        back until the residual falls. The Jacobian is kept while steps still shrink it well. At a tie (two
        windows of a max pool that see the same, a ReLU at zero) steps can shrink to nothing; the image is then dithered
        by up to half a grey level, which no 8-bit picture shows, and the method goes on, four times at most.

        RuntimeError with the residual where it does not arrive; ValueError and TypeError as in :class:`LevelSet`.
        """
        self._check_freedom()
        image = _valid(image, self.image.shape).to(self.image)
        generator = torch.Generator().manual_seed(0)
        worn = 0.1 if len(self.features) <= 100 else 0.5  # a Jacobian of few outputs costs no more than a step
        residual, jacobian, dithers, best = self._residual(image), None, 0, float("inf")
        for _ in range(_NEWTON):
            change = float(residual.norm()) / self._size()
            best = min(best, change)
            if change <= 1e-15:
                return image
            fresh = jacobian is None
            if fresh:
                jacobian = self._linearise(image)
            image, residual, left = self._newton(image, residual, jacobian)
            if left > worn:
                jacobian = None
            if left > 0.95 and fresh:
                if change <= _LANDED / 10:
                    return image
                if dithers == _DITHERS:
                    break
                dithers += 1
                noise = torch.rand(image.shape, generator=generator, dtype=image.dtype).to(image) - 0.5
                image = (image + _GREY * noise).clamp(0, 1)
                residual = self._residual(image)
        if best <= _LANDED:
            return image
        raise RuntimeError(
            f"no landing on the level set at {self.layer!r}: the relative change fell to {best:.0e} and "
            "stalled there. Start nearer to an image that has landed, or aim at another target"
        )

    def walk(self, target, steps, start=None):
        """Go from the image to `target`, or as near as one gets, on the level set; yields a :class:`Stop` per step.

        Each step aims at the next point of the straight line to the target and lands from there; where that fails, the
        step is halved, three times at most, and then the walk stays where it is. Every stop has landed. To go on with
        an interrupted walk, give the steps that are left and as `start` the last stop's image: the stops are the same.
        """
        _check_steps(steps)
        self._check_freedom()
        image = _valid(self.image if start is None else start, self.image.shape).to(self.image)
        return self._walk(image, _valid(target, self.image.shape).to(self.image), steps)

    def _walk(self, image, target, steps):
        for step in tqdm(range(steps), desc="walk", leave=False, disable=None):
            for halvings in range(4):
                try:
                    image = self.land(image + (target - image) / (steps - step) / 2**halvings)
                    break
                except RuntimeError:
                    pass
            yield self._stop(image, target)

    def nearest(self, target, steps=200, products=math.inf):
        """Return the landed :class:`Stop` nearest to `target` that a local method finds in `steps` first-order steps.

        Nesterov's gradient method on the augmented Lagrangian of "nearest to the target, on the level set", from the
        image; then :meth:`land`. It is a local answer: other starts and steps give others. A feature that dies on the
        way has no gradient to come back by; then the approach is made again, ten and a hundred times stiffer. Where
        that does not land either, the end of a :meth:`walk` of eight steps towards where it ended.

        `products` bounds the work: that many products of a vector with the Jacobian, which each cost about as much as
        the network's outputs; to form it takes one for each output. After them, the last stop of that walk;
        RuntimeError if there is none yet.
        """
        _check_steps(steps)
        if not products > 0:
            raise ValueError(f"products must be a positive number, not {products!r}")
        self._check_freedom()
        target = _valid(target, self.image.shape).to(self.image)
        self._products, last = products, None
        try:
            for stiffness in 1, 10, 100:
                near = self._approach(target, steps, stiffness)
                if not ((self.outputs(near) == 0) & (self.features != 0)).any():
                    try:
                        return self._stop(self.land(near), target)
                    except RuntimeError:
                        pass
            for stop in self.walk(near, 8):
                last = stop
        except _SpentError:
            if last is None:
                raise RuntimeError(
                    f"no landing on the level set at {self.layer!r} within {products} products with the Jacobian"
                ) from None
        finally:
            self._products = math.inf
        return self._stop(last.image, target)

    def outputs(self, image, model=None):
        """Return the layer's outputs for an image ``(C, H, W)`` as a vector; `model` is the float64 copy by default."""
        found = []

        def keep(_, __, output):
            found.append(hooks.first_tensor(output)[0].flatten().clone())
            if len(found) == self._calls:
                raise _ReachedError

        model = model or self._exact
        handle = model.get_submodule(self.layer).register_forward_hook(keep) if self._calls else None
        try:
            with torch.autocast(image.device.type, enabled=False):
                return hooks.first_tensor(model(image[None].clone()))[0].flatten()
        except _ReachedError:
            return torch.cat(found)
        finally:
            if handle:
                handle.remove()

    def _residual(self, image):
        with torch.no_grad():
            return self.features - self.outputs(image)

    def _size(self):
        return float(self.features.norm()) or 1.0

    def _stop(self, image, target):
        return Stop(image, self.change(image), float((image - target).square().mean().sqrt()))

    def _check_freedom(self):
        pixels, outputs = self.image.numel(), len(self.features)
        if outputs < pixels:
            return
        if outputs <= _DENSE:
            if not self.dimension().free:
                raise ValueError(
                    f"the level set is a point here: at {self.layer!r} the Jacobian has rank {pixels}, "
                    "the number of pixel values"
                )
        elif (active := int((self.features != 0).sum())) >= pixels:
            raise ValueError(
                f"the level set may be a point here: {active} of the {outputs} outputs of {self.layer!r} "
                f"are not zero, as many as the image has pixel values ({pixels}) or more"
            )

    def _rows(self, image, model):
        return rows(lambda y: self.outputs(y, model), hooks.fed(model, image))

    def _linearise(self, image):
        if len(self.features) <= _DENSE:
            self._spend(len(self.features))
            return Dense(self._rows(image, self._quick))
        return Implicit(self.outputs, image.double(), self._spend)

    def _spend(self, products=1):
        self._products -= products
        if self._products < 0:
            raise _SpentError

    def _newton(self, image, residual, jacobian):
        """One step: the image after it, its residual, and what is left of the residual (1: no step)."""
        wanted = jacobian.seen(residual)
        size = wanted.norm()
        if not size:
            return image, residual, 1.0
        scaled, lower, upper = ((value / size).to(jacobian.dtype) for value in (wanted, -image, 1 - image))
        step = size * least_change(jacobian, scaled, lower.flatten(), upper.flatten()).double().view_as(image)
        for halvings in range(10):
            there = (image + step / 2**halvings).clamp(0, 1)
            left = self._residual(there)
            after = jacobian.seen(left).norm()
            if after <= (1 - 0.25 / 2**halvings) * size:
                return there, left, float(after / size)
        return image, residual, 1.0

    def _approach(self, target, steps, stiffness):
        image, target, wanted = self.image.float(), target.float(), self.features.float()
        for step in tqdm(range(steps), desc="approach", leave=False, disable=None):
            if step in (0, steps // 2):  # far from the image another Jacobian measures what is left
                jacobian = self._linearise(image)
                velocity, multipliers = torch.zeros_like(image), torch.zeros_like(wanted)
            with torch.enable_grad():
                ahead = (image + 0.9 * velocity).requires_grad_()
                gap = jacobian.whiten(self.outputs(ahead, self._quick) - wanted)
                loss = (ahead - target).square().sum() / 2 + (multipliers + stiffness / 2 * gap) @ gap
                (gradient,) = torch.autograd.grad(loss, ahead)
            # whitened, the features move no faster than pixels, so 1 + stiffness bounds the curvature near the image
            moved = (ahead.detach() - 0.09 / (1 + stiffness) * gradient).clamp(0, 1)
            image, velocity = moved, moved - image
            if step % 20 == 19:
                multipliers += stiffness * gap.detach()
            stiffness *= 1000 ** (1 / steps)
        return image.double()


class _SpentError(Exception):
    """No more products with the Jacobian are allowed."""


class _ReachedError(Exception):
    """The layer's last call is done: the rest of the forward pass is not needed."""


def _frozen(model, dtype):
    return copy.deepcopy(model).to(dtype).eval().requires_grad_(False)


def _valid(image, shape=None):
    images.check(image, shape)
    if image.min() < 0 or image.max() > 1:
        raise ValueError(f"the image must lie in [0, 1], not in [{float(image.min()):.3g}, {float(image.max()):.3g}]")
    return image.detach().double()


def _check_steps(steps):
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive whole number, not {steps!r}")

"""A layer's Jacobian at an image, formed or not, and the smallest step that changes the features as wanted."""

from functools import cached_property

import torch
from scipy.sparse.linalg import LinearOperator, cg, lsmr

# Damping, relative to the mean squared norm of a row: what the image hardly sees must not count without bound.
_RIDGE, _WHITE = 1e-6, 1e-4
_POWERS, _TINY = 20, 1e-30
_ENTRIES = 2**20  # pixel values of the images that go back through the network together


def rows(features, image):
    """Return the Jacobian of the function `features` from an image to a vector, as a matrix ``(outputs, pixels)``.

    By vector–Jacobian products, several at a time. ValueError if an entry is not finite.
    """
    with torch.enable_grad():
        image = image.detach().requires_grad_()
        output = features(image)
        found = [
            torch.autograd.grad(output, image, part, retain_graph=True, is_grads_batched=True, materialize_grads=True)[
                0
            ].flatten(1)
            for part in torch.eye(len(output)).to(output).split(max(1, _ENTRIES // image.numel()))
        ]
    return finite(torch.cat(found))


class Dense:
    """A Jacobian as a matrix ``(outputs, pixels)``."""

    def __init__(self, rows):
        self.rows, self.dtype, self.alive = rows, rows.dtype, (rows != 0).any(1)
        gram = _ridged((rows @ rows.T).double(), _WHITE)
        # what is dead here may come to life elsewhere, and then as an average row would
        gram.diagonal()[~self.alive] = gram.diagonal()[self.alive].mean() if self.alive.any() else 1
        self.factor = torch.linalg.cholesky(gram).to(rows)

    def forward(self, change):
        """J times a flat image."""
        return self.rows @ change

    def adjoint(self, weights):
        """Jᵀ times a vector of features."""
        return weights @ self.rows

    def seen(self, residual):
        """The residual where the image has an influence; zero for features that are dead."""
        return residual * self.alive

    def whiten(self, residual):
        """A vector as long as the smallest change of the image that makes `residual`: ``‖J⁺ residual‖``."""
        return torch.linalg.solve_triangular(self.factor.to(residual), residual[:, None], upper=False)[:, 0]

    def solve(self, free, residual):
        """Solve ``J D Jᵀ v = residual`` with D the diagonal matrix of `free`, damped a little."""
        gram = _ridged(((self.rows * free) @ self.rows.T).double(), _RIDGE)
        return torch.linalg.solve(gram, residual.double()).to(residual)


class Implicit:
    """The Jacobian of the function `features` from an image to a vector, as products alone: for many outputs.

    `spend` is called before each product, and may raise to end the work.
    """

    def __init__(self, features, image, spend=lambda: None):
        self.dtype, self._spend = image.dtype, spend
        with torch.enable_grad():
            self._image = image.detach().clone().requires_grad_()
            self._output = features(self._image)
            self._weights = torch.zeros_like(self._output, requires_grad=True)
            (self._adjoint,) = torch.autograd.grad(
                self._output, self._image, self._weights, create_graph=True, materialize_grads=True
            )
        finite(self.adjoint(torch.ones_like(self._output)))

    @cached_property
    def _norm(self):
        """The largest singular value, from below, by the power method."""
        draw = torch.randn(len(self._output), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        weights = draw.to(self._output)
        for _ in range(_POWERS):
            weights = self.forward(self.adjoint(weights / weights.norm().clamp(min=_TINY)))
        return weights.norm().sqrt().clamp(min=_TINY)

    def forward(self, change):
        """As :meth:`Dense.forward`: Jᵀ is linear, so the gradient of its product with a vector is J."""
        self._spend()
        return torch.autograd.grad(
            self._adjoint, self._weights, change.view_as(self._image), retain_graph=True, materialize_grads=True
        )[0]

    def adjoint(self, weights):
        """As :meth:`Dense.adjoint`, by a backward pass."""
        self._spend()
        return torch.autograd.grad(self._output, self._image, weights, retain_graph=True, materialize_grads=True)[
            0
        ].flatten()

    def seen(self, residual):
        """The residual as it is: which features are dead is not known."""
        return residual

    def whiten(self, residual):
        """The residual over the largest singular value: a lower bound of the ‖J⁺ residual‖ of :class:`Dense`."""
        return residual / self._norm.to(residual)

    def solve(self, free, residual):
        """As :meth:`Dense.solve`, to a hundredth, by conjugate gradients."""

        def product(v):
            v = torch.from_numpy(v).to(residual)
            return (self.forward(free * self.adjoint(v)) + _RIDGE * self._norm**2 * v).cpu().numpy()

        operator = LinearOperator((len(residual),) * 2, matvec=product, dtype=residual.cpu().numpy().dtype)
        return torch.from_numpy(cg(operator, residual.cpu().numpy(), rtol=0.01, maxiter=100)[0]).to(residual)

    def unseen(self, direction):
        """The part of a flat `direction` that J maps to zero: the residual of a least-squares problem, by LSMR."""
        operator = LinearOperator(
            (len(direction), len(self._output)),
            dtype=direction.cpu().numpy().dtype,
            matvec=lambda v: self.adjoint(torch.from_numpy(v).to(direction)).cpu().numpy(),
            rmatvec=lambda d: self.forward(torch.from_numpy(d).to(direction)).cpu().numpy(),
        )
        weights = lsmr(operator, direction.cpu().numpy(), atol=1e-13, btol=1e-13, conlim=0, maxiter=2000)[0]
        return direction - self.adjoint(torch.from_numpy(weights).to(direction))


def least_change(jacobian, wanted, lower, upper, steps=60):
    """Return the smallest flat d with ``J d = wanted`` and ``lower ≤ d ≤ upper``, in the dtype of the Jacobian.

    d is ``clip(Jᵀλ, lower, upper)``, and λ solves the measurements by a semismooth Newton method, as in ``projection``;
    but one program at a time, J not orthonormal, and to five digits, since the caller repeats it. Where the box allows
    no solution, what `steps` steps arrive at.
    """
    multipliers, step = torch.zeros_like(wanted), torch.zeros_like(lower)
    change, residual = step.clamp(lower, upper), wanted
    for _ in range(steps):
        if not residual.norm() > 1e-5 * wanted.norm():
            break
        free = ((step > lower) & (step < upper)).to(step)
        direction = jacobian.solve(free, residual)
        slope = residual @ direction
        for halvings in range(14):
            trial = multipliers + direction / 2**halvings
            step = jacobian.adjoint(trial)
            change = step.clamp(lower, upper)
            residual = wanted - jacobian.forward(change)
            if residual @ direction >= -0.5 * slope.abs():
                break
        multipliers = trial
    return change


def _ridged(gram, ridge):
    gram.diagonal().add_(ridge * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    return gram


def finite(values):
    """Return `values`, the entries or products of a Jacobian; ValueError if some are not finite."""
    if not values.isfinite().all():
        raise ValueError("the Jacobian has entries that are not finite")
    return values

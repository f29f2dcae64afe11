"""The nearest point of a box that keeps some linear measurements: many small quadratic programs at once."""


import torch

_ENTRIES = 2**25  # of the largest intermediate, 256 MiB in float64
_STEPS = 300


def nearest_in_box(targets, points, rows, lower, upper):
    """Return, for each point, the z nearest (L2) to its target with ``lower ≤ z ≤ upper`` and ``rows.T @ z`` unchanged.

    Parameters
    ----------
    targets, points : float64 tensors ``(N, n)``; every point lies in the box.
    rows : orthonormal tensor ``(n, r)``; the measurements to keep are ``points @ rows``.
    lower, upper : tensors that broadcast to ``(N, n)``. Where the two are equal, z is fixed.

    The answer is ``clip(target + rows @ λ, lower, upper)`` for multipliers λ that satisfy the measurements, so the box
    holds exactly and the measurements up to rounding. λ maximises the concave, piecewise quadratic dual: a semismooth
    Newton method (Qi and Sun, A nonsmooth version of Newton's method, Math. Programming 58, 1993), damped in
    proportion to the residual, with a line search by bisection. Quadratic near the answer.

    RuntimeError if a residual stays above 1e-12 times the size of its point.
    """
    chunk = max(1, _ENTRIES // rows.numel())
    parts = [_solve(*part, rows) for part in zip(
        *(values.expand_as(points).split(chunk) for values in (targets, points, lower, upper)), strict=True)]
    return torch.cat(parts) if parts else points.clone()


def _solve(targets, points, lower, upper, rows):
    wanted, scale = points @ rows, 1 + points.norm(dim=1)
    multipliers = torch.zeros_like(wanted)
    todo = torch.arange(len(points), device=points.device)
    damping = torch.full_like(scale, 0.1)
    for _ in range(_STEPS):
        shifted = targets[todo] + multipliers[todo] @ rows.T
        residual = shifted.clamp(lower[todo], upper[todo]) @ rows - wanted[todo]
        size = residual.norm(dim=1)
        left = size > 16 * torch.finfo(points.dtype).eps * (scale[todo] + multipliers[todo].norm(dim=1))
        if not left.any():
            break
        todo, shifted, residual, size = todo[left], shifted[left], residual[left], size[left]
        low, high = lower[todo], upper[todo]
        free = ((shifted > low) & (shifted < high)).to(points)
        hessian = rows.T @ (free[:, :, None] * rows)
        hessian.diagonal(dim1=1, dim2=2).add_((damping[todo] * size.clamp(max=1) + 1e-14)[:, None])
        step = -torch.cholesky_solve(residual[:, :, None], torch.linalg.cholesky(hessian))[:, :, 0]
        length = _length(shifted, step @ rows.T, (wanted[todo] * step).sum(1), low, high)
        multipliers[todo] += length[:, None] * step
        damping[todo] = (damping[todo] * torch.where(length < 1, 4.0, 0.25).to(points)).clamp(1e-9, 1)
    answer = (targets + multipliers @ rows.T).clamp(lower, upper)
    worst = float(((answer @ rows - wanted).norm(dim=1) / scale).max())
    if not worst < 1e-12:
        raise RuntimeError(f"the nearest point was not found in {_STEPS} Newton steps: a relative residual of "
                           f"{worst:.0e} is left; a target nearer to the box is easier")
    return answer


def _length(shifted, direction, constant, low, high):
    """How far to go, at most 1: to where the dual's slope along the step, which rises, is zero or small."""
    def slope(length):
        return (direction * (shifted + length[:, None] * direction).clamp(low, high)).sum(1) - constant

    whole = torch.ones_like(constant)
    over = slope(whole) > slope(0 * whole).abs() / 2
    if not over.any():
        return whole
    near, far = 0 * whole, whole
    for _ in range(40):
        middle = (near + far) / 2
        rising = slope(middle) > 0
        near, far = torch.where(rising, near, middle), torch.where(rising, middle, far)
    return torch.where(over, near, whole)

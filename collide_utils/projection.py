"""The nearest point of a box that keeps some linear measurements: many small quadratic programs at once."""

import numpy as np
import torch
from scipy.optimize import linprog

from collide_utils import nullspace

_ENTRIES = 2**25  # of the largest intermediate, 256 MiB in float64
_NEWTON_STEPS, _CENTRING_STEPS, _INTERIOR_STEPS, _BISECTIONS = 40, 100, 100, 40
_ROUNDING = 1e-14  # of a measurement, relative to the size of its point
_AT_BOUND = 1e-9  # a point this near to a bound counts as standing on it
_LEAVES = 1e-6  # how fast a way has to leave all bounds, to be taken without a closer look
_GAP, _RESIDUAL = 1e-13, 1e-10  # at which the interior point method stops, relative to the size of its goal
_CENTRED = 0.01  # Newton decrement at which it starts
_AIMS, _STEP, _LOWEST = (1e-3, 0.5), 0.995, 1e-3  # of the mean product, of the way to a bound, of the mean product


def nearest_in_box(targets, points, rows, lower, upper, limits=None):
    """Return, for each point, the z nearest (L2) to its target with ``lower ≤ z ≤ upper`` and ``rows @ z`` unchanged.

    Parameters
    ----------
    targets, points : float64 tensors ``(N, n)``; every point lies in the box.
    rows : tensor ``(r, n)``; the measurements to keep are ``rows @ point``. They may depend on each other.
    lower, upper : tensors that broadcast to ``(N, n)``. Where the two are equal, z is fixed.
    limits : pair of tensors that broadcast to ``(N, r)``, infinite where there is none: a measurement may then move
        between the two, where they differ. Every point keeps to them. By default no measurement moves.

    The box holds exactly and the measurements up to rounding, whatever the program: also where the box leaves the point
    no room, or where the measurements depend on each other on the entries that stay free. Float64.
    """
    if not len(points):
        return points.clone()
    lower, upper = lower.expand_as(points), upper.expand_as(points)
    norms = rows.norm(dim=1)
    rows = rows / norms.where(norms > 0, 1)[:, None]
    answer, todo = points.clamp(lower, upper), torch.arange(len(points), device=points.device)
    if limits is None:
        rows = _orthonormal(rows)
        limits = (points @ rows.T,) * 2
    else:
        limits = [limit.expand(len(points), len(rows)) / norms.where(norms > 0, 1) for limit in limits]
    found, solved = _newton(targets, points, lower, upper, *limits, rows)
    answer[solved], todo = found[solved], todo[~solved]
    if len(todo):
        parts = (targets, answer, lower, upper, points @ rows.T, *limits)
        answer[todo] = _constrained(*(part[todo] for part in parts), rows)
    return answer


def _orthonormal(rows):
    """A basis of the row space; of rows that are orthonormal, these."""
    if torch.allclose(rows @ rows.T, torch.eye(len(rows)).to(rows), rtol=0, atol=1e-14):
        return rows
    _, singular, right = torch.linalg.svd(rows, full_matrices=False)
    return right[singular > max(rows.shape) * torch.finfo(rows.dtype).eps * singular.max()]


# Newton's method on the dual, for programs that are well posed.


def _newton(targets, points, lower, upper, least, most, rows):
    """Return ``(answer, solved)``; ``clip(target + rowsᵀ λ)`` for multipliers λ that satisfy the measurements.

    λ maximises the concave, piecewise quadratic dual: a semismooth Newton method (Qi and Sun, A nonsmooth version of
    Newton's method, Math. Programming 58, 1993), damped in proportion to the residual, with a line search by bisection.
    Quadratic near the answer. The multiplier of a measurement with one limit has one sign, and steps are cut at zero
    (after Bertsekas, Projected Newton methods, SIAM J. Control Optim. 20, 1982); one with two limits is left unsolved.
    """
    chunks = max(1, _ENTRIES // max(1, rows.numel()))
    parts = (values.split(chunks) for values in (targets, points, lower, upper, least, most))
    found = [_newton_chunk(*part, rows) for part in zip(*parts, strict=True)]
    return tuple(torch.cat(part) for part in zip(*found, strict=True))


def _newton_chunk(targets, points, lower, upper, least, most, rows):
    scale = 1 + points.norm(dim=1)
    wanted = torch.where(most.isfinite(), most, torch.where(least.isfinite(), least, 0.0))
    negative = torch.where(most.isfinite(), -torch.inf, 0.0).to(wanted)
    positive = torch.where(least.isfinite(), torch.inf, 0.0).to(wanted)
    multipliers = torch.zeros_like(wanted)
    todo = torch.arange(len(points), device=points.device)
    damping = torch.full_like(scale, 0.1)

    def residual_of(shifted, which):
        """What is wanted of the measurements and missing; nothing where a limit is kept without a multiplier."""
        measured = shifted.clamp(lower[which], upper[which]) @ rows.T - wanted[which]
        at = multipliers[which]
        kept = ((at >= positive[which]) & (measured < 0)) | ((at <= negative[which]) & (measured > 0))
        return measured.masked_fill(kept, 0), ~kept

    for _ in range(_NEWTON_STEPS):
        shifted = targets[todo] + multipliers[todo] @ rows
        residual, bound = residual_of(shifted, todo)
        size = residual.norm(dim=1)
        left = size > 16 * torch.finfo(points.dtype).eps * scale[todo]
        if not left.any():
            break
        # The dual's Hessian is that of the measurements on the free entries.
        todo, shifted, residual, size, bound = (
            todo[left],
            shifted[left],
            residual[left],
            size[left],
            bound[left].to(rows),
        )
        low, high = lower[todo], upper[todo]
        free = ((shifted > low) & (shifted < high)).to(points)
        hessian = bound[:, :, None] * (rows @ (free[:, :, None] * rows.T)) * bound[:, None, :]
        hessian.diagonal(dim1=1, dim2=2).add_((damping[todo] * size.clamp(max=1) + 1e-14)[:, None] + (1 - bound))
        step = -torch.cholesky_solve(residual[:, :, None], torch.linalg.cholesky(hessian))[:, :, 0]
        step = (multipliers[todo] + step).clamp(negative[todo], positive[todo]) - multipliers[todo]
        # A shorter step where the dual is no longer that quadratic.
        length = _length(shifted, step @ rows, (wanted[todo] * step).sum(1), low, high)
        multipliers[todo] += length[:, None] * step
        damping[todo] = (damping[todo] * torch.where(length < 1, 4.0, 0.25).to(points)).clamp(1e-9, 1)
    shifted = targets + multipliers @ rows
    residual, _ = residual_of(shifted, torch.arange(len(points), device=points.device))
    twofold = ((least < most) & least.isfinite() & most.isfinite()).any(1)
    return shifted.clamp(lower, upper), (residual.norm(dim=1) <= _ROUNDING * scale) & ~twofold


def _length(shifted, direction, constant, low, high):
    """How far to go, at most 1: to where the dual's slope along the step, which rises, is zero or small."""

    def slope(length):
        return (direction * (shifted + length[:, None] * direction).clamp(low, high)).sum(1) - constant

    whole = torch.ones_like(constant)
    over = slope(whole) > slope(0 * whole).abs() / 2
    if not over.any():
        return whole
    near, far = 0 * whole, whole
    for _ in range(_BISECTIONS):
        middle = (near + far) / 2
        rising = slope(middle) > 0
        near, far = torch.where(rising, near, middle), torch.where(rising, middle, far)
    return torch.where(over, near, whole)


# An interior point method for all others. What cannot move is found first and fixed, so that there is an interior.


def _constrained(targets, points, lower, upper, measured, low, high, rows):
    """As :func:`nearest_in_box`, with limits; programs whose points stand on the same bounds are solved together."""
    rooms = torch.stack(
        [torch.cat(pair, 1) for pair in ((points - lower, measured - low), (upper - points, high - measured))]
    )
    tight = rooms <= _AT_BOUND
    patterns, which = torch.cat([*tight], 1).unique(dim=0, return_inverse=True)
    answer = points.clone()
    for number, pattern in enumerate(patterns):
        moves, inward = _moves(rows, *pattern.view(2, -1))
        same = torch.nonzero(which == number)[:, 0]
        if not moves.shape[1]:
            continue
        reach = torch.cat([moves, rows @ moves])  # how entries, then measurements, grow with the coordinates
        still = reach.abs().amax(1) <= _AT_BOUND
        for part in same.split(max(1, _ENTRIES // reach.numel())):
            room = rooms[:, part].masked_fill(still, torch.inf)
            start = _start(reach @ inward, room)[:, None] * inward
            shift = start @ reach.T
            goal = (targets[part] - points[part]) @ moves - start
            found = start + _interior_point(goal, reach, room[0] + shift, room[1] - shift)
            answer[part] = (points[part] + found @ moves.T).clamp(lower[part], upper[part])
    return answer


def _moves(rows, at_low, at_high):
    """An orthonormal basis of the ways in which a point on these bounds can move, and one way off all of them."""
    fixed, bounds = at_low & at_high, torch.eye(rows.shape[1]).to(rows)
    while True:
        moves = nullspace.null_space(torch.cat([bounds, rows])[fixed]) if fixed.any() else bounds
        reach = torch.cat([moves, rows @ moves])
        tight = torch.nonzero((at_low ^ at_high) & ~fixed & (reach.norm(dim=1) > _AT_BOUND))[:, 0]
        if not len(tight):
            return moves, moves.new_zeros(moves.shape[1])
        inward = torch.where(at_low[tight, None], reach[tight], -reach[tight]).cpu().numpy()
        count, size = inward.shape
        # Off all bounds: the largest v, at most 1, with v ≤ inward @ x for all of them, where no |x| is above 1.
        found = linprog(
            np.repeat([0.0, -1.0], [size, 1]),
            np.hstack([-inward, np.ones((count, 1))]),
            np.zeros(count),
            bounds=[(-1, 1)] * size + [(0, 1)],
            method="highs",
        ).x
        if found is not None and found[size] > _LEAVES:
            return moves, torch.from_numpy(found[:size]).to(moves)
        # Off as many as possible: the largest Σ v with v ≤ inward @ x and 0 ≤ v ≤ 1. Any way off a bound can be made
        # longer until its v is 1, so where v is 0 there is none, and nothing can move.
        found = linprog(
            np.repeat([0.0, -1.0], [size, count]),
            np.hstack([-inward, np.eye(count)]),
            np.zeros(count),
            bounds=[(None, None)] * size + [(0, 1)] * count,
            method="highs",
        ).x
        stuck = torch.from_numpy(np.ones(count, bool) if found is None else found[size:] <= 0.5).to(tight.device)
        if not stuck.any():
            return moves, torch.from_numpy(found[:size] / np.abs(found[:size]).max()).to(moves)
        fixed = fixed.index_fill(0, tight[stuck], True)


def _start(inward, room):
    """How far to go inward: half of the way to the nearest bound."""
    ratios = torch.where(inward < 0, -room[0] / inward, torch.where(inward > 0, room[1] / inward, torch.inf))
    nearest = ratios.clamp(min=0).amin(1) / 2
    return torch.where(nearest.isfinite(), nearest, 0)


def _interior_point(goal, reach, below, above):
    """Return the x nearest to `goal` with ``-below ≤ reach @ x ≤ above``, where all of these are positive.

    Primal–dual path following (Wright, Primal-Dual Interior-Point Methods, 1997, chapter 5): Newton steps towards
    slacks times prices that are all equal and fall to zero, never so long that one of them falls far below the others.
    It starts from a centre, where they are equal, and every iterate is valid: where rounding leaves no further step,
    the last one is the answer.
    """
    bounds, signs = torch.stack([below, above]), torch.tensor([1.0, -1.0]).to(goal)[:, None, None]
    finite = bounds.isfinite()
    bounds = torch.where(finite, bounds, 1.0)
    count, scale = finite.sum((0, 2)).clamp(min=1), 1 + goal.norm(dim=1)
    x = _centre(goal, reach, bounds, finite, signs, scale)
    slack = torch.where(finite, bounds + signs * (x @ reach.T), 1.0)
    price = torch.where(finite, scale[:, None] / slack, 0.0)
    answer, todo = x.clone(), torch.arange(len(goal), device=goal.device)
    for _ in range(_INTERIOR_STEPS):
        answer[todo] = x
        residual = x - goal - (signs * price).sum(0) @ reach
        gap = (slack * price).sum((0, 2)) / count
        factor, failed = _factor(reach, price / slack, 1)
        left = ((gap > _GAP * scale) | (residual.norm(dim=1) > _RESIDUAL * scale)) & (failed == 0)
        if not left.any():
            break
        todo, x, goal, residual, gap, factor, count, scale = (
            value[left] for value in (todo, x, goal, residual, gap, factor, count, scale)
        )
        bounds, finite, slack, price = (value[:, left] for value in (bounds, finite, slack, price))

        def direction(wanted, slack=slack, price=price, finite=finite, residual=residual, factor=factor):
            pull = torch.where(finite, wanted[:, None] / slack - price, 0.0)
            right = (signs * pull).sum(0) @ reach - residual
            dx = torch.cholesky_solve(right[:, :, None], factor)[:, :, 0]
            dslack = signs * (dx @ reach.T)
            return dx, dslack, torch.where(finite, pull - price / slack * dslack, 0.0)

        # How far a step towards zero could go says how far to aim.
        _, dslack, dprice = direction(0 * gap)
        aim = ((1 - _longest(slack, dslack, price, dprice)) ** 3).clamp(*_AIMS)
        dx, dslack, dprice = direction(aim * gap)
        length = _STEP * _longest(slack, dslack, price, dprice)
        for _ in range(_BISECTIONS):
            products = (slack + length[:, None] * dslack) * (price + length[:, None] * dprice)
            lowest = products.masked_fill(~finite, torch.inf).amin((0, 2))
            uneven = lowest < _LOWEST * products.sum((0, 2)) / count
            if not uneven.any():
                break
            length = torch.where(uneven, 0.7 * length, length)
        x = x + length[:, None] * dx
        slack = torch.where(finite, bounds + signs * (x @ reach.T), 1.0)
        price = price + length[:, None] * dprice
    return answer


def _centre(goal, reach, bounds, finite, signs, scale):
    """The minimum of ½‖x − goal‖² − scale · Σ log slack by damped Newton steps, which stay inside by themselves."""
    x = torch.zeros_like(goal)
    for _ in range(_CENTRING_STEPS):
        slack = torch.where(finite, bounds + signs * (x @ reach.T), torch.inf)
        slope = (goal - x) / scale[:, None] + (signs / slack).sum(0) @ reach
        factor, failed = _factor(reach, 1 / slack**2, 1 / scale[:, None])
        step = torch.cholesky_solve(slope[:, :, None], factor)[:, :, 0]
        decrement = (step * slope).sum(1).clamp(min=0).sqrt()
        # With the damping, only rounding could leave the inside.
        nearest = (-signs * (step @ reach.T) / slack).amax((0, 2)).clamp(min=0)
        step = step / torch.maximum(1 + decrement, nearest / _STEP)[:, None]
        x = torch.where(failed[:, None] == 0, x + step, x)
        if bool(((decrement < _CENTRED) | (failed != 0)).all()):
            break
    return x


def _factor(reach, weights, diagonal):
    matrix = reach.T @ (weights.sum(0)[:, :, None] * reach)
    entries = matrix.diagonal(dim1=1, dim2=2)
    entries.add_(diagonal)
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():  # rounding of the steepest ways hides the flattest: these wait until the steepest are less so
        rounding = 4 * matrix.shape[1] * torch.finfo(matrix.dtype).eps * entries.amax(1, keepdim=True)
        entries.add_(torch.where(failed[:, None] == 0, 0, rounding))
        factor, failed = torch.linalg.cholesky_ex(matrix)
    return factor, failed


def _longest(slack, dslack, price, dprice):
    """The longest step, at most 1, that leaves slacks and prices at least 0."""
    falling = torch.where(price > 0, torch.maximum(-dslack / slack, -dprice / price), 0.0)  # no price: no bound
    return 1 / falling.amax((0, 2)).clamp(min=1)

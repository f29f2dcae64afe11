"""Brute force that several tests share."""

import copy
import math

import numpy as np
import torch
from scipy.linalg import null_space
from scipy.optimize import nnls


def layer_matrix(layer, shape):
    """What a layer does to inputs of `shape` (without the batch), its bias left out, as one float64 matrix."""
    layer = copy.deepcopy(layer).double()
    layer.bias = None
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return layer(units).flatten(1).T


def downhill(z, target, rows, low=None, high=None):
    """How far z is from the nearest point of [0, 1]ⁿ to `target`: the relative length of the steepest way down.

    The measurements ``rows @ z`` stay as they are, or between `low` and `high` where these differ. By Moreau the way is
    what remains of the gradient when the multipliers of all bounds that z stands on have taken their best part of it:
    zero exactly where the conditions of Karush, Kuhn and Tucker hold. Non-negative least squares by scipy.
    """
    z, target, rows = (np.asarray(value, dtype=float) for value in (z, target, rows))
    measured = rows @ z
    low, high = (measured if limit is None else np.asarray(limit) for limit in (low, high))
    fixed, near = low == high, 1e-7
    ways = null_space(rows[fixed]) if fixed.any() else np.eye(len(z))
    across = rows[~fixed] @ ways
    inward = np.concatenate(
        [
            ways[z <= near],
            -ways[z >= 1 - near],
            across[measured[~fixed] <= low[~fixed] + near],
            -across[measured[~fixed] >= high[~fixed] - near],
        ]
    )
    slope = ways.T @ (z - target)
    left = nnls(inward.T, slope, maxiter=100 * len(z))[1] if inward.size else np.linalg.norm(slope)
    return left / (1 + np.linalg.norm(z - target))

"""Brute force that several tests share."""

import copy
import math

import torch


def layer_matrix(layer, shape):
    """What a layer does to inputs of `shape` (without the batch), its bias left out, as one float64 matrix."""
    layer = copy.deepcopy(layer).double()
    layer.bias = None
    units = torch.eye(math.prod(shape), dtype=torch.float64).view(-1, *shape)
    with torch.no_grad():
        return layer(units).flatten(1).T

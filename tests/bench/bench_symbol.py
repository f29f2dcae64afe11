"""The symbol and the quietest perturbations of a ResNet stem, against a dense SVD and ARPACK."""

import resource
import sys
import time

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, svds
from torch import nn

from collide_utils import models
from collide_utils.symbol import image_nullity, quietest, symbol


def seconds(task, *args):
    """Processor time, that of all threads together: other programs change it less than the time on the clock."""
    start = time.process_time()
    task(*args)
    return time.process_time() - start


def dense_quietest(conv, size):
    units = torch.eye(3 * size**2).view(-1, 3, size, size)
    with torch.no_grad():
        return torch.linalg.svd(conv(units).flatten(1).T.double(), full_matrices=False)


def plain_quietest(conv, size):
    def forward(v):
        v = torch.from_numpy(v).view(1, 3, size, size)
        return nn.functional.conv2d(v, weight, stride=2, padding=3).flatten().numpy()

    def backward(y):
        y = torch.from_numpy(y).view(1, 64, size // 2, size // 2)
        return torch.nn.grad.conv2d_input((1, 3, size, size), weight, y, 2, 3).flatten().numpy()

    weight = conv.weight.detach().double()
    shape = (16 * size**2, 3 * size**2)
    operator = LinearOperator(shape, forward, backward, dtype=np.float64)
    return svds(operator, 1, which="SM", tol=0.05, maxiter=2000, return_singular_vectors=False, random_state=0)


torch.manual_seed(0)
conv = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
print(f"symbol at 224: {seconds(symbol, conv, 224):.1f} s; image_nullity: {seconds(image_nullity, conv, 224):.1f} s")
print(f"quietest at 224, one: {seconds(quietest, conv, 224, 1):.0f} s, four: {seconds(quietest, conv, 224, 4):.0f} s")
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
print(f"peak memory of the process: {peak:.0f} MB")
dense = seconds(dense_quietest, conv, 28) / seconds(quietest, conv, 28, 1)
print(f"at 28, a dense SVD (LAPACK) takes {dense:.0f} times as long")
for name, stem in (("untrained", conv), ("stridenet's", models.load("stridenet").conv1)):
    ratio = seconds(plain_quietest, stem, 112) / seconds(quietest, stem, 112, 1)
    print(f"{name} stem at 112: scipy's svds to 5 %, without the symbol, takes {ratio:.1f} times as long")

"""Counting null spaces against scipy.linalg.null_space on the same weights; the atlas; the memory that VGG-16 takes.

Ratios are of processor time, which other programs on the machine change less than the time on the clock. On one thread:
those that wait for work would count as if they worked.
"""

import os
import resource
import sys
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"

import scipy.linalg
import torch
from torchvision.models import get_model

from collide_utils import counting, nullspace, weights
from collide_utils.show import charts


def seconds(function, *args):
    """Processor time, that of all threads together."""
    start = time.process_time()
    function(*args)
    return time.process_time() - start


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


torch.manual_seed(0)
vgg = get_model("vgg16_bn", weights=None)
start = time.perf_counter()
took, held = seconds(counting.count, vgg), 4e-6 * sum(parameter.numel() for parameter in vgg.parameters())
print(
    f"VGG-16: {time.perf_counter() - start:.0f} s, {took:.0f} s of processor time; peak memory {megabytes():.0f} MB, "
    f"the interpreter and {held:.0f} MB of weights included"
)
del vgg

print(f"atlas: {seconds(counting.atlas):.1f} s of processor time for every torchvision builder")

resnet = get_model("resnet50", weights=None)
matrices = [weight.matrix[0] for weight in weights.layer_weights(resnet)]
ours = sum(seconds(nullspace.nullity, matrix) for matrix in matrices)
theirs = sum(seconds(scipy.linalg.null_space, matrix.numpy()) for matrix in matrices)
print(
    f"ResNet-50: scipy.linalg.null_space takes {theirs / ours:.1f} times as long as nullity, weight by weight, and "
    f"{theirs / seconds(counting.count, resnet):.1f} times as long as a count, which looks at the layers as well"
)

sizes = [128, 256, 512, 1024, 2048]
ours, theirs = [], []
for size in sizes:
    matrix = torch.randn(size, 2 * size)
    nullspace.nullity(matrix)  # the first call of a size may be slow
    ours.append(seconds(nullspace.nullity, matrix))
    theirs.append(seconds(scipy.linalg.null_space, matrix.numpy()))
    print(f"{size} × {2 * size}: {theirs[-1] / ours[-1]:.0f} times as long")

times = {"nullspace.nullity": ours, "scipy.linalg.null_space": theirs}
picture = charts.lines(
    sizes,
    times,
    "Time to count a null space",
    "rows (half the columns)",
    "processor seconds",
    alt="Time against matrix size on logarithmic axes, for our nullity and scipy's null_space.",
)
Path("build").mkdir(exist_ok=True)
Path("build/counting.png").write_bytes(picture.data)

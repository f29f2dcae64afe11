"""Counting null spaces against scipy.linalg.null_space on the same weights; the atlas; the memory that VGG-16 takes."""

import resource
import sys
import time
from pathlib import Path

import matplotlib
import scipy.linalg
import torch
from torchvision.models import get_model

from collide_utils import counting, nullspace, weights

matplotlib.use("Agg")


def seconds(function, *args):
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def megabytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


torch.manual_seed(0)
vgg = get_model("vgg16_bn", weights=None)
took = seconds(counting.count, vgg)
print(f"VGG-16: {took:.0f} s, peak memory {megabytes():.0f} MB, the interpreter and {4e-6 * sum(p.numel() for p in vgg.parameters()):.0f} MB of weights included")
del vgg

print(f"atlas: {seconds(counting.atlas):.1f} s for every torchvision builder")

resnet = get_model("resnet50", weights=None)
ours = seconds(counting.count, resnet)
theirs = sum(seconds(scipy.linalg.null_space, block.numpy()) for w in weights.layer_weights(resnet) for block in w.matrix)
print(f"ResNet-50: scipy.linalg.null_space takes {theirs / ours:.1f} times as long")

sizes = [128, 256, 512, 1024, 2048]
times = {"collide_utils.nullspace.nullity": [], "scipy.linalg.null_space": []}
for size in sizes:
    matrix = torch.randn(size, 2 * size)
    nullspace.nullity(matrix)  # the first call of a size may be slow
    times["collide_utils.nullspace.nullity"].append(seconds(nullspace.nullity, matrix))
    times["scipy.linalg.null_space"].append(seconds(scipy.linalg.null_space, matrix.numpy()))
    print(f"{size} × {2 * size}: {times['scipy.linalg.null_space'][-1] / times['collide_utils.nullspace.nullity'][-1]:.0f} times")

from collide_utils import show  # noqa: E402

picture = show.lines(sizes, times, "Time to count a null space", "rows (half the columns)", "seconds",
                     alt="Time against matrix size on logarithmic axes, for our nullity and scipy's null_space.")
Path("build").mkdir(exist_ok=True)
Path("build/counting.png").write_bytes(picture.data)

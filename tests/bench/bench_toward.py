"""The nearest valid colliding image of 224×224, all 1024 windows at once, against SLSQP on one window."""

import time

import numpy as np
import torch
from scipy.optimize import minimize

from collide_utils import images, models, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch

model = models.load("patchnet", dtype=torch.float64)
search = NullSpaceSearch(model)
cat, coffee = images.load("chelsea"), images.load("coffee")
generator = torch.Generator().manual_seed(0)
targets = {
    "coffee": coffee,
    "white": torch.ones_like(cat),
    "noise": torch.rand(cat.shape, generator=generator),
    "a mosaic at β = 2048": search.collide(cat, search.random(generator), 2048),
}
contrast, white = ((cat - 0.5) * 3 + 0.5).clamp(0, 1), torch.ones_like(cat)
pairs = {
    **{f"cat toward {name}": (cat, target) for name, target in targets.items()},
    "cat at three times its contrast toward coffee": (contrast, coffee),
    "white toward cat": (white, cat),
    "cat toward noise of 1000 times the box": (cat, 1000 * torch.randn(cat.shape, generator=generator)),
}
for name, (image, target) in pairs.items():
    for layer in ("conv1", "relu"):
        start = time.perf_counter()
        found = search.toward(image, target, layer)
        seconds = time.perf_counter() - start
        violation = max(0.0, float(-found.min()), float(found.max() - 1))
        change = compare(model, image, found).changes[layer]
        print(f"{name}: {seconds:.2f} s, box violation {violation:g}, relative change after {layer} {change:.1e}")

point, target = (windows.unfold(search.geometry, image.double())[16, 16].numpy() for image in (cat, coffee))
V, shift = search.basis.numpy(), point - target
start = time.perf_counter()
minimize(
    lambda a: 0.5 * np.sum((shift + V @ a) ** 2),
    np.zeros(V.shape[1]),
    jac=lambda a: V.T @ (shift + V @ a),
    method="SLSQP",
    options=dict(maxiter=300, ftol=1e-12),
    constraints=[
        dict(type="ineq", fun=lambda a: point + V @ a, jac=lambda a: V),
        dict(type="ineq", fun=lambda a: 1 - point - V @ a, jac=lambda a: -V),
    ],
)
peer = time.perf_counter() - start
start = time.perf_counter()
search.toward(cat, coffee)
ours = (time.perf_counter() - start) / 1024
print(f"scipy's SLSQP takes {peer * 1e3:.0f} ms for one window, {peer / ours:.0f} times as long as ours")

"""Reach equal features: ours against L-BFGS, Adam and plenoptic's Metamer, on the same pair and network; and what the
Jacobian costs against single backward passes. Seconds of processor time.

plenoptic is not needed otherwise: ``pip install -e '.[bench]'``; without it its line is left out.
"""

import contextlib
import time

import torch
from scipy.optimize import minimize

from collide_utils import images, models
from collide_utils.levelsets import LevelSet

SECONDS = 45
model = models.load("stridenet", dtype=torch.float64).requires_grad_(False)
cat, coffee = (images.load(name).double() for name in ("chelsea", "coffee"))
level = LevelSet(model, "avgpool", cat)


def report(name, image, start):
    distance = float((image - coffee).square().mean().sqrt())
    print(
        f"{name:<9} {time.process_time() - start:3.0f} s, relative feature error {level.change(image):.1e}, RMS to "
        f"the coffee {distance:.4f}",
        flush=True,
    )


def loss(image):
    return (level.outputs(image) - level.features).square().sum()


def ours():
    start = time.process_time()
    report("ours", level.nearest(coffee, steps=300).image, start)


def lbfgs():
    """As Sabour et al. (2016): only the features count, and the image stays within a box around the guide."""
    start = time.process_time()

    def value(flat):
        y = torch.from_numpy(flat).view_as(cat).requires_grad_()
        error = loss(y)
        if time.process_time() - start > SECONDS:
            raise StopIteration
        if not best or error < best[-1][0]:
            best.append((float(error), flat.copy()))
        return float(error), torch.autograd.grad(error, y)[0].flatten().numpy()

    best = []
    low, high = (coffee - 0.1).clamp(min=0), (coffee + 0.1).clamp(max=1)
    with contextlib.suppress(StopIteration):
        minimize(
            value,
            coffee.flatten().numpy(),
            jac=True,
            method="L-BFGS-B",
            bounds=list(zip(low.flatten().tolist(), high.flatten().tolist(), strict=True)),
            options=dict(maxiter=10**6, maxfun=10**6, ftol=0, gtol=0),
        )
    image = torch.from_numpy(best[-1][1]).view_as(cat)
    report("L-BFGS-B", image, start)


def adam():
    start, image = time.process_time(), coffee.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=1e-3)
    while time.process_time() - start < SECONDS:
        (image.grad,) = torch.autograd.grad(loss(image), image)
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    report("Adam", image.detach(), start)


def metamer():
    try:
        import plenoptic
    except ImportError:
        print("plenoptic is not installed: its Metamer is left out")
        return

    class Features(torch.nn.Module):
        def forward(self, x):
            return level.outputs(x[0])[None, None]

    metamer = plenoptic.Metamer(cat[None], Features().eval())
    metamer.setup(coffee[None])
    start = time.process_time()
    while time.process_time() - start < SECONDS:
        metamer.synthesize(max_iter=20)
    report("Metamer", metamer.metamer.detach()[0].clamp(0, 1), start)


def jacobian():
    y = cat.clone().requires_grad_()
    features = level.outputs(y)
    start = time.process_time()
    for one in torch.eye(len(features), dtype=features.dtype):
        torch.autograd.grad(features, y, one, retain_graph=True)
    singly = time.process_time() - start
    start = time.process_time()
    level._rows(cat, level._exact)
    together = time.process_time() - start
    start = time.process_time()
    level._rows(cat, level._quick)
    print(
        f"Jacobian of {len(features)} outputs: {together:.1f} s in float64, {time.process_time() - start:.1f} s in "
        f"float32; {singly:.1f} s by single backward passes in float64"
    )


if __name__ == "__main__":
    for run in (ours, lbfgs, adam, metamer, jacobian):
        run()

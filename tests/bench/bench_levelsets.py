"""Reach equal features: ours against L-BFGS, Adam and plenoptic's Metamer, on the same pair and network; and what a
Jacobian costs against single backward passes; and five photographs at both stems, each landed near another. Seconds of
processor time; about five minutes of them.

plenoptic is needed for its line alone: ``pip install -e '.[bench]'``, or without its dependencies, which are there but
for one, ``pip install --no-deps plenoptic pyrtools``.
"""

import contextlib
import itertools
import os
import time

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from scipy.optimize import minimize

from collide_utils import images, models
from collide_utils.comparison import compare
from collide_utils.jacobians import rows
from collide_utils.levelsets import LevelSet

TIMES, PEERS = (1, 2, 4, 8, 16), 12  # seconds for each peer
model = models.load("stridenet", dtype=torch.float64).requires_grad_(False)
cat, coffee = (images.load(name).double() for name in ("chelsea", "coffee"))


class Timed(LevelSet):
    """Notes the error of every image that is tried, and when."""

    def start(self):
        self.began, self.trace = time.process_time(), []

    def outputs(self, image, model=None):
        found = super().outputs(image, model)
        if hasattr(self, "trace"):
            error = float((found.detach() - self.features).norm() / self.features.norm())
            self.trace.append((time.process_time() - self.began, error))
        return found

    def loss(self, image):
        return (self.outputs(image) - self.features).square().sum()

    def report(self, name, image):
        """The error at each time and of the valid image that was found, and how far that is from the coffee."""
        seconds, trace = time.process_time() - self.began, self.trace
        steps = [next((error for when, error in reversed(trace) if when <= limit), np.nan) for limit in TIMES]
        distance = float((image - coffee).square().mean().sqrt())
        print(
            f"{name:<9}"
            + "".join(
                f"{error:9.0e}" if limit <= seconds else " " * 9 for error, limit in zip(steps, TIMES, strict=True)
            )
            + f"{self.change(image):10.0e} after {seconds:3.0f} s {distance:13.4f}",
            flush=True,
        )


def ours(level):
    """The others start at the coffee and only come nearer in features; this starts at the cat, and lands."""
    return level.nearest(coffee).image


def lbfgs(level):
    """As Sabour et al. (2016): only the features count, and the image stays within a box around the guide."""

    def value(flat):
        y = torch.from_numpy(flat).view_as(cat).requires_grad_()
        error = level.loss(y)
        if not best or error < best[-1][0]:
            best.append((float(error), flat.copy()))
        if time.process_time() - level.began > PEERS:
            raise StopIteration
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
    return torch.from_numpy(best[-1][1]).view_as(cat)


def adam(level):
    image = coffee.clone().requires_grad_()
    optimizer = torch.optim.Adam([image], lr=1e-3)
    while time.process_time() - level.began < PEERS:
        (image.grad,) = torch.autograd.grad(level.loss(image), image)
        optimizer.step()
        with torch.no_grad():
            image.clamp_(0, 1)
    return image.detach()


def metamer(level):
    import plenoptic

    class Features(torch.nn.Module):
        def forward(self, x):
            return level.outputs(x[0])[None, None]

    metamer = plenoptic.Metamer(cat[None], Features().eval())
    metamer.setup(coffee[None])
    level.start()
    while time.process_time() - level.began < PEERS:
        metamer.synthesize(max_iter=10, stop_criterion=0)
    return metamer.metamer.detach()[0].clamp(0, 1)


def reach():
    print("relative error of stridenet's logits after so many seconds")
    print(
        " " * 9
        + "".join(f"{seconds:9}" for seconds in TIMES)
        + "   of the valid image   its RMS distance to the coffee"
    )
    for name, run in {"ours": ours, "L-BFGS-B": lbfgs, "Adam": adam, "Metamer": metamer}.items():
        level = Timed(model, "logits", cat)
        level.start()
        try:
            level.report(name, run(level))
        except ImportError as missing:
            print(f"{name:<9}left out: {missing}")


def jacobian(features, image, outputs):
    """Time the first `outputs` rows together and one by one."""
    start = time.process_time()
    rows(lambda y: features(y)[:outputs], image)
    together = time.process_time() - start
    y = image.clone().requires_grad_()
    start = time.process_time()
    found = features(y)
    for one in torch.eye(len(found), dtype=found.dtype)[:outputs]:
        torch.autograd.grad(found, y, one, retain_graph=True)
    singly = time.process_time() - start
    each, total = 1000 * together / outputs, len(found) * together / outputs
    print(
        f"{len(found)} outputs: {each:.0f} ms a row in float32, {total:.0f} s for all; single backward passes take "
        f"{singly / together:.2f} times as long"
    )


def costs():
    level = LevelSet(model, "avgpool", cat)
    print("Jacobian of stridenet's pooled features, ", end="")
    jacobian(lambda y: level.outputs(y, level._quick), cat.float(), 24)
    resnet = models.load("resnet50", weights=None).requires_grad_(False)
    level = LevelSet(resnet, "network.avgpool", cat)
    print("Jacobian of resnet50's pooled features, ", end="")
    jacobian(lambda y: level.outputs(y, level._quick), cat.float(), 6)


def pairs():
    """Land near five photographs, on the way to the next, at both stems and at two layers."""
    names = images.names()[:5]
    changes = []
    for name, layer in itertools.product(("patchnet", "stridenet"), ("avgpool", "logits")):
        network, began = models.load(name, dtype=torch.float64), time.process_time()
        for one, other in itertools.pairwise([*names, names[0]]):
            image, target = (images.load(photograph, 84).double() for photograph in (one, other))
            landed = LevelSet(network, layer, image).land(image + 0.005 * (target - image))
            found = compare(network, image, landed)
            assert landed.min() >= 0 and landed.max() <= 1 and found.collides_from is not None
            changes.append(found.changes[layer])
        print(f"five photographs on {name}, {layer}: {time.process_time() - began:.0f} s", flush=True)
    print(f"{len(changes)} pairs, all valid images that collide; largest relative change {max(changes):.0e}")


if __name__ == "__main__":
    reach()
    costs()
    pairs()

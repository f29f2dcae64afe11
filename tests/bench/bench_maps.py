"""The whole agreement table of patchnet in seconds, and a single map against the bare call of Captum."""

import time

import torch
from captum.attr import LayerGradCam

from collide_utils import images, maps, models
from collide_utils.search import NullSpaceSearch


def seconds(function, times=20):
    function()
    start = time.perf_counter()
    for _ in range(times):
        function()
    return (time.perf_counter() - start) / times


model = models.load("patchnet", dtype=torch.float64)
search = NullSpaceSearch(model)
cat = images.load("chelsea").double()
colliding = search.collide(cat, search.random(torch.Generator().manual_seed(0)), 2048)

start = time.perf_counter()
rows = maps.compare_maps(model, cat, colliding)
taken = time.perf_counter() - start
layers = len({row.layer for row in rows} - {None})
print(
    f"{len(maps.METHODS)} methods, {layers} layers, {len(rows)} pairs of maps: {taken:.0f} s on "
    f"{torch.get_num_threads()} threads; as the theory says: {sum(row.verdict == row.theory for row in rows)}"
)

ours = seconds(lambda: maps.compute("grad_cam", model, cat, "layer3", target=0))
bare = seconds(lambda: LayerGradCam(model, model.layer3).attribute(cat[None], 0))
print(f"one Grad-CAM takes {ours / bare:.1f} times as long as captum's LayerGradCam, checks and copy included")

"""From a move of the β slider to the new bytes of the picture, at 224×224."""

import time

import numpy as np

from collide_utils.show import panels

for name in ("patchnet", "stridenet"):
    row, played, *_ = panels.beta_panel(name, "chelsea").children
    slider, valid = played.children[1], row.children[-1]
    for valid.value in (False, True):
        times = []
        for index in np.random.default_rng(0).permutation(5 * list(range(13))):
            start = time.perf_counter()
            slider.index = int(index)
            times.append(1e3 * (time.perf_counter() - start))
        times = [spent for spent in times if spent > 1]  # the slider stood there already
        print(
            f"{name}, stay in [0, 1] {'on' if valid.value else 'off'}: median {np.median(times):.0f} ms, "
            f"95th percentile {np.percentile(times, 95):.0f} ms"
        )

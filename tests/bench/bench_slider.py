"""From a move of the β slider to the new bytes of the picture, at 224×224."""

import time

import numpy as np

from collide_utils.show import panels

for name in ("patchnet", "stridenet"):
    panel = panels.beta_panel(name, "chelsea")
    slider, valid = panel.children[0], panel.children[4]
    for valid.value in (False, True):
        times = []
        for beta in np.geomspace(1.5, 8000, 120):
            start = time.perf_counter()
            slider.value = beta
            times.append(1e3 * (time.perf_counter() - start))
        print(f"{name}, stay in [0, 1] {'on' if valid.value else 'off'}: median {np.median(times):.0f} ms, "
              f"95th percentile {np.percentile(times, 95):.0f} ms")

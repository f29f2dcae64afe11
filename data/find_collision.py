"""Find the pair that the README and notebook 00 show: data/collision.safetensors, the image, and data/collision.png.

A cat and a cup of coffee, both valid images, that stridenet cannot tell apart from its pooled features on. About a
minute of processor time. The search is deterministic on one machine; another may find another image.
"""

from pathlib import Path

import torch
from safetensors.torch import save_file

from collide_utils import images, models
from collide_utils.comparison import compare
from collide_utils.levelsets import LevelSet
from collide_utils.show import pictures

DATA = Path(__file__).resolve().parent


def main():
    model = models.load("stridenet", dtype=torch.float64)
    cat, coffee = (images.load(name).double() for name in ("chelsea", "coffee"))
    found = LevelSet(model, "avgpool", cat).nearest(coffee, steps=400)
    result = compare(model, cat, found.image)
    print(f"RMS distance to the coffee {found.distance:.4f}, change of the pooled features {found.change:.1e}")
    print(result.verdict)
    if not (found.landed and result.collides_from):
        raise SystemExit("no collision: nothing was written")
    save_file({"image": found.image}, DATA / "collision.safetensors")
    picture = pictures.images(
        [cat, found.image],
        [f"the network says:\n{said}" for said in result.said],
        width=3.4,
        alt="A cat and a cup of coffee",
    )
    (DATA / "collision.png").write_bytes(picture.data)


if __name__ == "__main__":
    main()

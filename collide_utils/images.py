"""Photographs as tensors: samples that scikit-image, scikit-learn and matplotlib ship, and any file of the reader's."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from collide_utils import _data

# Part of each photograph that is shown: left, upper, right, lower as fractions of its width and height.
_SAMPLES = {
    "chelsea": ("skimage", (0.288, 0.110, 0.854, 0.960)),
    "coffee": ("skimage", (0.267, 0.050, 0.733, 0.750)),
    "astronaut": ("skimage", (0.291, 0.047, 0.604, 0.359)),
    "grace_hopper": ("matplotlib", (0.293, 0.217, 0.742, 0.600)),
    "stereo_motorcycle": ("skimage", (0.162, 0.000, 0.837, 1.000)),
    "china": ("sklearn", (0.050, 0.000, 0.717, 1.000)),
    "flower": ("sklearn", (0.317, 0.337, 0.683, 0.885)),
}


def names():
    """Return the names that :func:`load` knows."""
    return list(_SAMPLES)


def load(name, size=224):
    """Return a sample photograph as a float32 tensor ``(3, H, W)`` in [0, 1]; `size` is H = W, or ``(H, W)``."""
    if name not in _SAMPLES:
        raise ValueError(f"no sample photograph called {name!r}; there are {', '.join(_SAMPLES)}")
    package, box = _SAMPLES[name]
    if package == "sklearn":
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    elif package == "matplotlib":
        from matplotlib.cbook import get_sample_data

        with get_sample_data(f"{name}.jpg") as file:
            pixels = np.asarray(Image.open(file).convert("RGB"))
    else:
        import skimage.data

        pixels = getattr(skimage.data, name)()
        if isinstance(pixels, tuple):  # a stereo pair comes as (left, right, disparity)
            pixels = pixels[0]
    image = Image.fromarray(pixels)
    left, upper, right, lower = box
    return _to_tensor(
        image.crop(
            (
                round(left * image.width),
                round(upper * image.height),
                round(right * image.width),
                round(lower * image.height),
            )
        ),
        size,
    )


def streets(size):
    """Return the street frames that the course ships, a dict from a name to a float32 tensor as :func:`from_file`'s."""
    return {path.stem: from_file(path, size) for path in sorted((_data.FOLDER / "street").glob("*.jpg"))}


def open_rgb(path):
    """Return an image file as an upright 8-bit RGB ``PIL.Image``, transparent pixels laid on white.

    Grey values of 16 bits are scaled to 8, and so are floating-point ones in [0, 1]. ValueError for a file that cannot
    be read as an image, and for grey values on another scale.
    """
    try:
        with Image.open(path) as image:
            upright = _eight_bit(ImageOps.exif_transpose(image), image.format)
            if not upright.has_transparency_data:
                return upright.convert("RGB")
            white = Image.new("RGBA", upright.size, "white")
            return Image.alpha_composite(white, upright.convert("RGBA")).convert("RGB")
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except Exception as error:  # of many kinds, for damaged and hostile files
        raise ValueError(f"{path}: not a readable image file ({error})") from error


def _eight_bit(image, format):
    """Scale grey values of more than 8 bits, which Pillow's own conversion to RGB would clip to white or black."""
    if image.mode not in ("F", "I") and not image.mode.startswith("I;16"):
        return image
    values, white = np.asarray(image, dtype=float), 1 if image.mode == "F" else 65535
    has_scale = image.mode != "I" or format in ("PNG", "PPM")  # these have 16 bits; whole numbers of 32 have no white
    if not (has_scale and np.isfinite(values).all() and values.min() >= 0 and values.max() <= white):
        raise ValueError(
            f"its grey values, from {values.min():g} to {values.max():g}, are on no scale that is known "
            "here: save it with 8 or 16 bits, or as floating-point numbers in [0, 1]"
        )
    return Image.fromarray((255 / white * values).round().astype(np.uint8))


def from_file(path, size=224):
    """Return an image file as a float32 tensor ``(3, H, W)`` in [0, 1]; `size` is H = W, or ``(H, W)``.

    What does not fit the shape is cropped at both sides alike.
    """
    return _to_tensor(open_rgb(path), size)


def files(folder):
    """Return the paths of the image files in `folder`, by their suffixes, sorted.

    NotADirectoryError if it is none, FileNotFoundError if it has no image file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder}: not a folder")
    suffixes = Image.registered_extensions()
    known = {suffix for suffix, kind in suffixes.items() if kind in Image.OPEN}
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in known and path.is_file())
    if not found:
        raise FileNotFoundError(f"{folder}: no file that ends in .jpg, .png or another suffix of an image")
    return found


def from_afar(image, window, gamma=2.2):
    """Return an image ``(3, H, W)``, clipped as it is shown, as an eye sees it that mixes the light of each `window`.

    `window` is the pair of its height and width in pixels; the result has one pixel for each. A number in an image
    stands for an amount of light that grows like its power `gamma`.
    """
    light = torch.nn.functional.avg_pool2d(image[None].clamp(0, 1) ** gamma, window)
    return light[0] ** (1 / gamma)


def check(image, shape=None, what="image"):
    """Raise TypeError if `image` is not a floating-point tensor, ValueError if it is not finite or of another shape.

    `shape` is what it must have, by default any ``(C, H, W)``. `what` is what the message calls the image.
    """
    if not isinstance(image, torch.Tensor) or not image.is_floating_point():
        kind = image.dtype if isinstance(image, torch.Tensor) else type(image).__name__
        raise TypeError(f"the {what} must be a floating-point tensor, not {kind}")
    if image.ndim != 3 if shape is None else tuple(image.shape) != tuple(shape):
        raise ValueError(f"the {what} must have shape {shape or '(C, H, W)'}, not {tuple(image.shape)}")
    if not image.numel():
        raise ValueError(f"the {what} has no pixels: its shape is {tuple(image.shape)}")
    if not image.isfinite().all():
        raise ValueError(f"the {what} has entries that are NaN or infinite")


def _to_tensor(image, size):
    rows, columns = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    if not all(isinstance(n, int) and n >= 1 for n in (rows, columns)):
        raise ValueError(f"size must be a positive whole number of pixels, or (rows, columns), not {size!r}")
    pixels = np.asarray(ImageOps.fit(image, (columns, rows), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255).contiguous()

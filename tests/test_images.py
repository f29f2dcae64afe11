import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from collide_utils import images


@pytest.mark.parametrize("name", images.names())
def test_samples_are_float_images_in_the_unit_interval(name):
    image = images.load(name)
    assert image.shape == (3, 224, 224) and image.dtype == torch.float32
    assert 0 <= image.min() < 0.2 and 0.7 < image.max() <= 1


def test_size_is_the_readers():
    assert images.load("coffee", size=56).shape == (3, 56, 56)
    for size in (0, -3, 2.5):
        with pytest.raises(ValueError, match=str(size)):
            images.load("coffee", size=size)


def test_a_picture_need_not_be_square(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = images.from_file(tmp_path / "wide.png", size=(6, 10))
    np.testing.assert_array_equal((255 * found).round().byte().permute(1, 2, 0).numpy(), pixels)
    found = images.from_file(tmp_path / "wide.png", size=(6, 4))
    np.testing.assert_array_equal((255 * found).round().byte().permute(1, 2, 0).numpy(), pixels[:, 3:7])
    for size in ((6, 0), (6, 4, 3), (6.0, 4), [6, 4]):
        with pytest.raises(ValueError, match="rows, columns"):
            images.from_file(tmp_path / "wide.png", size=size)


def test_street_frames_come_at_the_size_that_is_asked_for():
    frames = images.streets((90, 120))
    assert len(frames) == 3
    for frame in frames.values():
        assert frame.shape == (3, 90, 120) and 0 <= frame.min() < 0.2 and 0.7 < frame.max() <= 1


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'lenna'.*chelsea, coffee"):
        images.load("lenna")


def test_a_file_comes_as_its_central_square(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    found = images.from_file(tmp_path / "wide.png", size=6)
    np.testing.assert_array_equal((255 * found).round().byte().permute(1, 2, 0).numpy(), pixels[:, 2:8])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(path)
    assert torch.equal(images.from_file(path, size=4), torch.ones(3, 4, 4))


def test_a_rotated_photograph_stands_upright(tmp_path):
    image = Image.new("RGB", (8, 8))
    image.paste((255, 255, 255), (0, 0, 8, 4))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image.save(tmp_path / "photo.png", exif=exif)
    found = images.from_file(tmp_path / "photo.png", size=8)
    assert found[:, :3].max() == 0 and found[:, 5:].min() == 1


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.pgm"])
def test_sixteen_bits_keep_their_shades(tmp_path, name):
    grey = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / name)
    found = images.from_file(tmp_path / name, size=8)
    np.testing.assert_allclose(found, np.broadcast_to(grey / 65535, (3, 8, 8)), atol=0.5 / 255 + 1e-6)


def test_floating_point_files_keep_their_shades_or_are_refused(tmp_path):
    grey, path = np.linspace(0, 1, 64).astype(np.float32).reshape(8, 8), tmp_path / "grey.tif"
    Image.fromarray(grey).save(path)
    np.testing.assert_allclose(images.from_file(path, size=8)[0], grey, atol=0.5 / 255 + 1e-6)
    for other in (
        255 * grey,
        grey - 0.5,
        np.where(grey > 0.9, np.nan, grey),
        (255 * grey).astype(np.int32),
        grey.astype(np.int32),
    ):
        Image.fromarray(other).save(path)
        with pytest.raises(ValueError, match=r"grey.tif.*grey values, from .* are on no scale"):
            images.from_file(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_whatever_colour_they_hide(tmp_path, mode):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[:2, :, 3] = 255  # the upper half is opaque black, the lower hides black behind full transparency
    pixels[3, :, 3] = 51  # the last row shows a fifth of it
    image = Image.fromarray(pixels).convert(mode)
    if mode == "P":
        image = Image.fromarray(np.repeat([[0], [0], [1], [1]], 4, axis=1).astype(np.uint8), "P")
        image.putpalette([0, 0, 0, 9, 9, 9])
        image.info["transparency"] = 1
    image.save(tmp_path / "clear.png")
    found = images.from_file(tmp_path / "clear.png", size=4)
    assert found[:, :2].max() == 0 and found[:, 2].min() == 1
    assert mode == "P" or found[:, 3].unique().tolist() == [pytest.approx(0.8, abs=0.003)]


def test_files_that_are_no_images_are_named(tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    Image.new("RGB", (64, 64), (9, 99, 199)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:80])
    # A gigantic picture in 70 bytes, and a chunk of text that would unpack to gigabytes.
    whole = (tmp_path / "whole.png").read_bytes()
    header = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    (tmp_path / "vast.png").write_bytes(whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:])
    text = b"zTXta\0\0" + zlib.compress(bytes(10**8))
    (tmp_path / "chatty.png").write_bytes(
        whole[:33] + struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text)) + whole[33:]
    )
    for name in ("text.png", "cut.png", "vast.png", "chatty.png"):
        with pytest.raises(ValueError, match=f"{name}: not a readable image"):
            images.from_file(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        images.from_file(tmp_path / "absent.png")

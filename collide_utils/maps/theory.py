"""Which maps of two colliding images must agree: what the theory says, without drawing any."""

from collide_utils import windows


def must_agree(method, geometry, behind):
    same = {"activation": behind, "gradient": True, "pixels": False,
            "blocks": behind or (method.block is not None and not _cut(geometry, method.block))}
    return all(same[what] for what in method.reads)


def behind(model, order, stem, layer, side):
    """Whether that side of `layer` is computed from the output of `stem`. Calls nest, and are listed as they end."""
    if order.index(layer) < order.index(stem):
        return False
    holds_stem = model.get_submodule(stem) in set(model.get_submodule(layer).modules())
    return side == "output" or not holds_stem


def _cut(geometry, block):
    """Whether an edge between blocks runs through a window."""
    return any(len({pixel // block(axis.size) for pixel in pixels if 0 <= pixel < axis.size}) > 1
               for axis in geometry.axes for pixels in axis.ranges)


def stem_geometry(model, name, image):
    layer = model.get_submodule(name)
    try:
        geometry = windows.geometry(layer, image.shape[1:])
        windows.pixel_slope(model, name, geometry)
    except ValueError as error:
        raise ValueError(f"the images collide from {name!r} ({type(layer).__name__}) on, but the theory is for a first "
                         f"layer that sees the pixels: {error}") from error
    return geometry

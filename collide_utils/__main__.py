"""The module from a shell: ``python -m collide_utils report``, ``count`` and ``collide``, each with ``--help``."""

import argparse
import copy
import io
import sys
import warnings
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from PIL import Image

from collide_utils import _data, checkpoints, counting, images, models, report, weights
from collide_utils.comparison import Reference
from collide_utils.levelsets import LevelSet
from collide_utils.search import NullSpaceSearch
from collide_utils.show import canvas

_WEIGHTS = {"pretrained": "DEFAULT", "none": None}
_INTERRUPTED = 130  # as shells say it


def main(arguments=None):
    """Run one command; returns the exit code: 0, 2 after an error, which is one line, and 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # for --weights none
            return options.run(options) or 0
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except (OSError, ValueError, RuntimeError, TypeError) as error:
        print(f"collide_utils: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _parser():
    parser = argparse.ArgumentParser("python -m collide_utils", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("report", help="measure every claim on a network; write a page")
    one.add_argument("network", help="a shipped network, a torchvision classifier, or a checkpoint file")
    one.add_argument("--images", type=Path, help="a folder of photographs (by default the course's)")
    one.add_argument("--out", type=Path, action="append", required=True, help="FILE.html or FILE.toml; may be repeated")
    one.add_argument("--collide-at", metavar="LAYER", help="where two photographs are to collide, or logits")
    one.set_defaults(run=_report)
    two = commands.add_parser("count", help="count null spaces, as Table 1 does")
    two.add_argument(
        "what", help="a checkpoint file, a folder of them, or a network's name (torchvision: by its shapes)"
    )
    two.set_defaults(run=_count)
    three = commands.add_parser("collide", help="make an image like one photograph with the features of another")
    three.add_argument("network", help="as in report")
    three.add_argument("image", type=Path, help="whose features are kept")
    three.add_argument("--toward", type=Path, required=True, metavar="IMAGE", help="what is to be seen")
    three.add_argument(
        "--out", type=Path, required=True, help="FILE.npy or FILE.safetensors; a PNG is written beside it"
    )
    three.set_defaults(run=_collide)
    for command in one, three:
        command.add_argument(
            "--weights", choices=("pretrained", "none"), default="pretrained", help="none: random ones"
        )
    return parser


def _writable(path, suffixes):
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path} must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise NotADirectoryError(f"{path.parent}: not a folder")


def _report(options):
    for path in options.out:
        _writable(path, (".html", ".toml"))
    drawn = _WEIGHTS[options.weights]
    found = report.check(options.network, options.images, collide_at=options.collide_at, weights=drawn)
    for path in options.out:
        found.save(path)
    print(found.headline, *found.remarks, sep="\n")
    return _INTERRUPTED if found.interrupted else 0


def _count(options):
    path = Path(options.what)
    if path.is_dir():
        rows = counting.count_folder(path)
    elif path.is_file():
        rows = [counting.count(checkpoints.load_checkpoint(path))]
    else:
        shipped = options.what in models.names() and options.what not in models.classifiers()
        rows = [counting.count(models.load(options.what) if shipped else options.what)]
    width = max(len(row.name) for row in rows)
    print(f"{'':{width}}      n      ν   ν as layers      μ   sum of nullities   first")
    for row in rows:
        numbers = row.n, row.nu, row.nu_layers, row.mu, row.total_nullity, row.first_nullity
        line = "  {:5} {:6} {:13} {:6} {:18,} {:7}".format(*numbers) if row.error is None else f"  {row.error}"
        print(f"{row.name:{width}}{line}")


def _collide(options):
    _writable(options.out, (".npy", ".safetensors"))
    model = report.network(options.network, _WEIGHTS[options.weights])
    shape = weights.needed_shape(model)
    x, target = (images.from_file(path, shape[1:]).double() for path in (options.image, options.toward))
    search = _search(model, shape)
    if search:
        found, where = search.toward(x, target), search.layer.name
    else:
        where = "logits"
        found = LevelSet(model, where, x).nearest(target).image
    reference = Reference(copy.deepcopy(model).double(), x)
    numbers, picture = found.cpu(), options.out.with_suffix(".png")
    shown = Image.fromarray(canvas.pixels(numbers, smallest=1))
    buffer, drawn = io.BytesIO(), io.BytesIO()
    if options.out.suffix.lower() == ".npy":
        np.save(buffer, numbers.numpy())
    else:
        buffer.write(safetensors.torch.save({"image": numbers}))
    shown.save(drawn, "png")
    _data.write(options.out, buffer.getvalue())
    _data.write(picture, drawn.getvalue())
    rounded = torch.from_numpy(np.array(shown)).permute(2, 0, 1).double()[: shape[0]] / 255
    print(f"{options.out}, the exact numbers, led to collide from {where} on: {reference.compare(found).verdict}")
    print(f"{picture}, rounded to 8 bits, which is not exact: {reference.compare(rounded).verdict}")


def _search(model, shape):
    """The null-space search where its results collide: where windows do not overlap; else None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an overlap leads to the other way
            search = NullSpaceSearch(model, shape)
    except ValueError:
        return None
    return None if search.geometry.overlapping else search


if __name__ == "__main__":
    sys.exit(main())

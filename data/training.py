"""What the training scripts do alike: how they start, go on where they were interrupted, and write their records."""

import argparse
import csv
import os
from pathlib import Path

import torch


def folder(path):
    """An argument that must be a folder."""
    if not Path(path).is_dir():
        raise argparse.ArgumentTypeError(f"{path!r} is not a folder")
    return Path(path)


def start(parser, recipes):
    """Read the command line, and beside what the parser knows the networks to train, by default all; then get ready."""
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(recipes)}; all by default")
    args = parser.parse_args()
    if unknown := set(args.networks) - set(recipes):
        parser.error(f"no network called {', '.join(sorted(unknown))}; there are {', '.join(recipes)}")
    args.networks = args.networks or list(recipes)
    args.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # so that the same bits come out again
    return args


def resume(path, parts, generator):
    """Put `parts` and `generator` back to what they were at the checkpoint, if there is one; return its record."""
    if not path.exists():
        return []
    state = torch.load(path, weights_only=True)
    for key, part in parts.items():
        part.load_state_dict(state[key])
    generator.set_state(state["generator"])
    return state["record"]


def keep(path, parts, generator, record):
    """Write the checkpoint from which :func:`resume` goes on."""
    state = {key: part.state_dict() for key, part in parts.items()}
    torch.save(state | dict(record=record, generator=generator.get_state()), path.with_suffix(".part"))
    os.replace(path.with_suffix(".part"), path)


def replace_rows(path, network, new, order):
    """Replace the rows of one network in a csv file that has networks in `order`; columns are those of the new rows."""
    old = []
    if path.exists():
        with open(path, newline="") as file:
            old = [row for row in csv.DictReader(file) if row["network"] != network]
    new = [{key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in new]
    with open(path.with_suffix(".part"), "w", newline="") as file:
        writer = csv.DictWriter(file, list(new[0]), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(sorted(old + new, key=lambda row: list(order).index(row["network"])))
    os.replace(path.with_suffix(".part"), path)

"""What of the paper holds for one network, on the reader's own photographs: all that can be measured, in one call.

All but the count runs on a copy of the network in float64 and in eval mode, in batches, on the network's device: what
differs then is not rounding. This room stands above the pictures, because a report is numbers and the page of them.
"""

import copy
import functools
import math
import warnings
from pathlib import Path

import tomli_w
import torch
from tqdm import tqdm

from collide_utils import _data, checkpoints, claims, hooks, images, models, weights
from collide_utils.report.sections import SECTIONS
from collide_utils.search import NullSpaceSearch
from collide_utils.show import page

_ABOUT = (
    dict.fromkeys(
        ("limit-law-closed-form", "limit-is-not-equality", "lemma-square", "lemma-not-square"),
        "It is about random matrices, not about a network.",
    )
    | dict.fromkeys(("table-mu", "secure-like-regular", "table-nullities"), "It is about the networks of Table 1.")
    | dict.fromkeys(("basis-vectors-unique", "collisions-do-not-transfer"), "It is about two networks or more.")
)


def check(model, images=None, layers=None, input_shape=None, collide_at=None, steps=200, weights="DEFAULT"):
    """Measure the claims of the ledger that make sense for one network; return a :class:`Report`.

    Parameters
    ----------
    model : a torch module that takes images ``(N, C, H, W)`` in [0, 1], a name that ``models.load`` knows,
        or a checkpoint file that ``checkpoints.load_checkpoint`` reads.
    images : a folder of photographs, or a list of files and of tensors ``(C, H, W)`` in [0, 1]; by default the sample
        photographs. Files are cropped and scaled to the input shape. One that cannot be read is skipped, and named.
    layers : names of the layers whose maps are compared; by default the first and the last that have rows and columns.
    input_shape : ``(C, H, W)``; by default that of ``model.input_size``, or of the first tensor in `images`.
    collide_at : the layer from which an image like the second photograph is to collide with the first, or ``"logits"``.
        By default that is what a classifier returns, or of another network the first layer that must collide, and the
        search ends after 3.6e13 operations (a quarter of an hour of one core); a layer that is named has no such end.
    steps : of the search for that image.
    weights : for a name, as in ``models.load``; None draws random ones.

    An error in one section is said there, and the others go on. After Ctrl-C the report comes back with what is done;
    :meth:`Report.resume` goes on from there. The model, the images, torch's random state and flags stay as they are.

    FileNotFoundError for a folder without images; ValueError where none can be read, or they do not have the shape, or
    that is not known; TypeError for what is neither a module nor a name; for a name or a file, the errors of loading.
    """
    name = Path(model).name if isinstance(model, str) else type(model).__name__
    model = network(model, weights)
    shape = _shape(model, images, input_shape)
    return Report(model, name, shape, *_photographs(images, shape), layers, collide_at, steps).resume()


def network(model, weights="DEFAULT"):
    """Return a network: `model` itself, or by its name, or of a checkpoint file; errors as in :func:`check`."""
    if isinstance(model, str):
        return checkpoints.load_checkpoint(model) if Path(model).is_file() else models.load(model, weights=weights)
    hooks.check(model)
    return model


class Report:
    """What :func:`check` measured: a page in a notebook, text where it is printed, a file by :meth:`save`.

    Attributes
    ----------
    data : what :meth:`save` writes to TOML, nested dicts and lists of text, numbers and bool: ``network``,
        ``photographs`` (those ``used``, and those ``skipped`` with the error), ``sections`` by name (each with its
        ``title``, its ``words``, whether it is ``done``, its ``error`` if there was one, and numbers), and ``claims``
        by id (the ``claim``, the ledger's answer ``as_stated``, the answer ``here``, the ``numbers`` that decide it, or
        ``why`` there are none).
    pictures : dict from a section's name to a list of pairs of a caption and an image ``(C, H, W)``.
    done, interrupted : whether every section was measured to its end, and whether Ctrl-C kept some from it.
    """

    def __init__(self, model, name, shape, photographs, skipped, layers, collide_at, steps):
        self.model, self.name, self.shape, self.photographs = model, name, shape, photographs
        self.layers, self.collide_at, self.steps = layers, collide_at, steps
        self.twin = copy.deepcopy(model).double().eval().requires_grad_(False)
        self.pictures, self.pair, self._numbers = {}, None, {}
        self.data = {
            "network": {"name": name, "input_shape": list(shape)},
            "photographs": {"used": list(photographs), "skipped": skipped},
            "sections": {},
            "claims": {},
        }

    def resume(self):
        """Measure the sections that are not done yet, after Ctrl-C or an error for example; return the report."""
        self.interrupted = False
        for name, (title, measure) in tqdm(SECTIONS.items(), desc=f"report on {self.name}", disable=None):
            found = self.data["sections"].setdefault(name, {"title": title, "done": False})
            if found["done"]:
                continue
            found["words"] = []
            found.pop("error", None)
            try:
                measure(self, found)
                found["done"] = True
            except KeyboardInterrupt:
                found["error"], self.interrupted = "interrupted; what was done is kept", True
                break
            except Exception as error:  # of any kind, from code that is not ours
                found["error"] = str(error) or type(error).__name__
        self._judge()
        return self

    @property
    def done(self):
        sections = self.data["sections"]
        return all(name in sections and sections[name]["done"] for name in SECTIONS)

    def save(self, path):
        """Write the report to a file: a page that stands alone (``.html``), or its ``data`` (``.toml``).

        The file is written beside its place and then moved there, so that it is never half of one. ValueError for
        another suffix.
        """
        writers = {".html": page.document, ".toml": lambda report: tomli_w.dumps(report.data)}
        suffix = Path(path).suffix.lower()
        if suffix not in writers:
            raise ValueError(f"a report is saved as {' or '.join(writers)}, not as {str(path)!r}")
        _data.write(path, writers[suffix](self).encode())

    def _repr_html_(self):
        return page.fragment(self)

    def __repr__(self):
        lines = [self.headline, *self.remarks]
        for section in self.data["sections"].values():
            lines += ["", section["title"], *(f"  {words}" for words in section["words"])]
            lines += [f"  Not measured to the end: {section['error']}"] if "error" in section else []
        lines += ["", "The claims"]
        for name, claim in self.data["claims"].items():
            numbers = "; ".join(f"{number['what']}: {number['measured']:.4g}" for number in claim["numbers"])
            lines.append(f"  {name}: {claim['here']}. {numbers or claim['why']}")
        return "\n".join(lines)

    @property
    def headline(self):
        """The report in one sentence."""
        here = [claim["here"] for claim in self.data["claims"].values()]
        count = [here.count(answer) for answer in ("holds here", "fails here", "not measured")]
        return (
            f"{self.name} on {len(self.photographs)} photographs: of {len(here)} claims {count[0]} hold here, "
            f"{count[1]} fail here, and {count[2]} were not measured."
        )

    @property
    def remarks(self):
        """What else must be said at the top: the photographs that were skipped, and what is not done."""
        skipped = self.data["photographs"]["skipped"]
        lines = [f"{len(skipped)} of {len(skipped) + len(self.photographs)} files were skipped:"] if skipped else []
        lines += [f"{name}: {error}" for name, error in skipped.items()]
        return lines + ([] if self.done else ["Not all was measured; resume() tries what is missing again."])

    @functools.cached_property
    def search(self):
        """The :class:`~collide_utils.search.NullSpaceSearch` of the network; its ValueError if there is none."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that windows overlap is said in words
            return NullSpaceSearch(self.model, self.shape)

    def measured(self, claim, **numbers):
        """Keep pairs of a number and what it is, by the ledger's names of a claim's evidence."""
        self._numbers.setdefault(claim, {}).update(numbers)

    def _judge(self):
        for name, entry in claims.ledger().items():
            numbers = {key: pair for key, pair in self._numbers.get(name, {}).items() if not math.isnan(pair[0])}
            values = {key: float(value) for key, (value, _) in numbers.items()}
            self.data["claims"][name] = {
                "claim": entry["claim"],
                "as_stated": entry["as_stated"],
                "here": f"{claims.verdict(name, **values)} here" if values else "not measured",
                "why": ""
                if values
                else _ABOUT.get(name, f"Nothing here decides it; see notebook {entry['notebook']}."),
                "numbers": [
                    {"number": key, "what": what, "measured": values[key], "claimed": entry["evidence"][key]["claimed"]}
                    for key, (_, what) in numbers.items()
                ],
            }


def _shape(model, source, given):
    shape = weights.default_shape(model) if given is None else given
    if shape is None and isinstance(source, (list, tuple)):
        shape = next((one.shape for one in source if isinstance(one, torch.Tensor)), None)
    shape = weights.needed_shape(model) if shape is None else shape
    if len(shape) != 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"input_shape must be three positive whole numbers, (C, H, W), not {shape!r}")
    return tuple(shape)


def _photographs(source, shape):
    """Return the images by name, and by name the errors of those that cannot be read."""
    if source is None:
        source = images.names()
        read = functools.partial(images.load, size=shape[1:])
    else:
        source = images.files(source) if isinstance(source, (str, Path)) else list(source)
        read = functools.partial(images.from_file, size=shape[1:])
    found, skipped = {}, {}
    for number, one in enumerate(source, start=1):
        name = f"image {number}" if isinstance(one, torch.Tensor) else Path(one).name
        if name in found or name in skipped:
            name = f"{name} ({number})"
        if isinstance(one, torch.Tensor):
            images.check(one, shape, name)
            found[name] = one.detach().clone()
            continue
        try:
            picture = read(one)
            found[name] = picture.mean(0, keepdim=True) if shape[0] == 1 else picture
        except (OSError, ValueError) as error:
            skipped[name] = str(error)
    if not found:
        why = f"the first of {len(skipped)}: {next(iter(skipped.values()))}" if skipped else "there is none"
        raise ValueError(f"no image can be read ({why})")
    for name, picture in found.items():
        images.check(picture, shape, name)
        if picture.min() < 0 or picture.max() > 1:
            raise ValueError(
                f"{name} must lie in [0, 1], not in [{float(picture.min()):.3g}, {float(picture.max()):.3g}]"
            )
    return found, skipped

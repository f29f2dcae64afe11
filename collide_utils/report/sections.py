"""The sections of a report: each measures one thing, says it in words, and hands its numbers to the claims.

Each is a function of the :class:`~collide_utils.report.Report` and of the dict that it fills; what it has put there is
kept if it fails.
"""

import itertools
import math
from collections.abc import Mapping

import torch
from torch import nn
from torch.utils import _pytree
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from collide_utils import counting, hooks, maps, nullspace, symbol, weights, windows
from collide_utils.answers import Answer
from collide_utils.comparison import compare
from collide_utils.levelsets import LevelSet

BETAS = [2**power for power in range(3, 14)]
_REPEATED = [8, 512, 8192]
_TOLERANCES = (None, 1e-6, 1e-4, 1e-2)
_METHODS = (  # those that run the network a few times only
    *("activation", "grad_cam", "gradient_x_activation", "guided_grad_cam"),
    *("saliency", "guided_backprop", "input_x_gradient"),
)
_AT_ONCE = 2**21  # pixel values in a batch
_WORK = 3.6e13  # operations of products with a Jacobian: four Jacobians of a ResNet-50, a quarter of an hour of a core
_ABLATION = 2e12  # operations of the ablation maps at one layer: about a minute of a core
_SSIM_WINDOW = 7


def count(report, found):
    """Table 1's row, with other tolerances too, as weights and as layers."""
    sweep = found.setdefault("sweep", [])
    for rtol in _TOLERANCES[len(sweep) :]:
        row = counting.count(report.model, rtol)
        tolerance = "by the number format" if rtol is None else f"{rtol:g}"
        columns = ("nu", "nu_layers", "total_nullity", "first_nullity")
        sweep.append({"tolerance": tolerance} | {key: getattr(row, key) for key in columns})
        found |= {"n": row.n, "mu": row.mu, "total_columns": row.total_columns, "not_counted": list(row.skipped)}
    n, nu, nu_layers = found["n"], sweep[0]["nu"], sweep[0]["nu_layers"]
    by_weight, by_layer = 100 * nu / n, 100 * nu_layers / n
    found["words"] += [
        f"Of {n} weights {nu} have a null space as matrices ({by_weight:.0f} %); {found['mu']} must have one, "
        f"because they have more columns than rows. As layers on images {nu_layers} have one ({by_layer:.0f} %).",
        f"The weights do not see {sweep[0]['total_nullity']:,} of {found['total_columns']:,} dimensions, the first one "
        f"{sweep[0]['first_nullity']} of its own. Other tolerances give other numbers; they stand in the table.",
        *([f"Not counted: {', '.join(found['not_counted'])}."] if found["not_counted"] else []),
    ]
    report.measured(
        "majority-of-weights",
        by_weight=(by_weight, "share of the weights that have a null space, in per cent"),
        by_layer=(by_layer, "share of the layers that have one on whole images, in per cent"),
    )
    found["published"] = [row for row in counting.published() if row["builder"] == report.name]
    if found["published"]:
        difference = max(abs(row["mu"] - found["mu"]) for row in found["published"])
        report.measured("table-mu", difference=(difference, "largest difference from μ in Table 1"))


def stem(report, found):
    """The first layer: overlap, null space by weight and by image, and what it hears least."""
    layer = weights.first_weight(report.twin, report.shape)
    groups, rows, columns = layer.matrix.shape
    nullity = nullspace.nullity(layer.matrix)
    found |= {"layer": layer.name, "rows": groups * rows, "columns": groups * columns, "nullity": nullity}
    found["words"].append(
        f"The first layer is {layer!r}. Its weight does not see {nullity} of the {groups * columns} dimensions "
        "of a window."
    )
    geometry, matrix = windows.pixel_weight(report.twin, layer, report.shape)  # as it acts on pixels
    found |= {"window": list(geometry.window), "stride": list(geometry.stride), "overlapping": geometry.overlapping}
    found["words"].append(
        f"Its windows of {geometry.window[0]}×{geometry.window[1]} pixels, {geometry.stride[0]} pixels apart, "
        + (
            "overlap: what one window does not see the next one does, and a tiled null vector is no collision."
            if geometry.overlapping
            else "do not overlap: the image can be changed window by window."
        )
    )
    if geometry.overlapping:
        look = {"stride": geometry.stride, "padding": geometry.padding, "dilation": geometry.dilation}
        conv = nn.Conv2d(geometry.channels, len(matrix), geometry.window, bias=False, device="meta", **look)
        conv.weight = nn.Parameter(matrix.reshape(conv.weight.shape).cpu(), requires_grad=False)
        found["image_nullity"] = symbol.image_nullity(conv, report.shape[1:])
        noise = torch.randn(1, *report.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        loud = float(conv(noise).norm() / noise.norm())
        quiet = float(symbol.quietest(conv, report.shape[1:])[0][0])
    else:
        hidden = nullspace.null_space(matrix)
        found["image_nullity"] = hidden.shape[1] * math.prod(geometry.grid)
        loud = float(matrix.norm()) / matrix.shape[1] ** 0.5
        unheard = (matrix @ hidden).norm(dim=0) if hidden.shape[1] else torch.linalg.svdvals(matrix)[-1:]
        quiet = float(unheard.max())
    found["quietest"] = quiet / loud
    found["words"].append(
        f"As a layer it maps {found['image_nullity']:,} dimensions of an image of {report.shape[1]}×{report.shape[2]} "
        "to "
        + (
            "zero (on a torus); to the image that it hears least its "
            if geometry.overlapping
            else "zero; its smallest "
        )
        + f"response is {found['quietest']:.2g} times that to white noise."
    )
    what = "dimensions of an image that the first layer maps to zero"
    report.measured("collision-at-first-layer", directions=(found["image_nullity"], what))
    if nullity:
        report.measured(
            "null-space-of-weight-is-of-layer",
            stridenet=(found["image_nullity"], what),
            quietest=(found["quietest"], "smallest response of the first layer, white noise = 1"),
        )


def guaranteed(report, found):
    """The first layer from which images collide by count alone."""
    pixels, first = math.prod(report.shape), counting.first_guaranteed(report.model, report.shape)
    if first is None:
        found["words"].append(
            f"No layer that all passes through has fewer outputs than the image has numbers, {pixels:,}."
        )
        return
    found |= {"layer": first[0], "outputs": first[1], "pixels": pixels}
    found["words"].append(
        f"From {first[0]} on images must collide, whatever the weights are: {first[1]:,} outputs for the {pixels:,} "
        "numbers of an image, and no way around."
    )


def curves(report, found):
    """The recipe, and white noise of the same size: what changes after the first layer, and what is still said."""
    search, done = report.search, found.setdefault("photographs", {})
    found |= {"betas": BETAS, "skipped": {}}
    bar = tqdm(report.photographs.items(), desc="photographs", leave=False, disable=None)
    for number, (name, photograph) in enumerate(bar):
        if name in done:
            continue
        try:
            done[name] = _curve(report, photograph, number)
        except Exception as error:  # of any kind, from code that is not ours
            found["skipped"][name] = str(error) or type(error).__name__
            found["words"].append(f"The network failed on {name}, which is left out: {found['skipped'][name]}")
    if not done:
        raise RuntimeError("no photograph went through")
    overlapping, at_512 = search.geometry.overlapping, BETAS.index(512)
    for recipe in ("mosaic", "noise", "repeat"):
        changes = torch.tensor([one[recipe]["change"] for one in done.values()], dtype=torch.float64)
        found[recipe] = {"least": changes.amin(0).tolist(), "most": changes.amax(0).tolist()}
        kept = [one[recipe]["kept"] for one in done.values() if "kept" in one[recipe]]
        if kept:
            found[recipe]["kept"] = torch.tensor(kept, dtype=torch.float64).mean(0).tolist()
    for recipe, words in ("mosaic", "A mosaic of null vectors"), ("noise", "White noise of the same size"):
        least, most, kept = (found[recipe].get(key) for key in ("least", "most", "kept"))
        found["words"].append(
            f"{words} changes the first layer's output by {least[at_512]:.1e} to {most[at_512]:.1e} of its size at "
            "β = 512"
            + (f"; the network keeps {100 * sum(kept) / len(kept):.1f} % of what it says, over all β." if kept else ".")
        )
    found["words"].append(
        "The windows overlap, so a mosaic is no collision here."
        if overlapping
        else "The network is fed the numbers of the sum, many of which leave [0, 1] at a large β."
    )
    _curve_claims(report, found, at_512)
    x, middle, last = _mosaics(report)
    shown = [x, middle.clamp(0, 1), last.clamp(0, 1)]
    said = [answer.said for answer in _run(report, [x, middle, last, *shown[1:]])[0]]
    report.pictures["curves"] = [
        (f"The photograph: {said[0]}", shown[0]),
        (f"Mosaic, β = 512. Fed: {said[1]}. As shown, clipped: {said[3]}", shown[1]),
        (f"Mosaic, β = 8192. Fed: {said[2]}. As shown, clipped: {said[4]}", shown[2]),
    ]


def _mosaics(report):
    """The first photograph, and a mosaic on it at β = 512 and 8192."""
    x, v = next(iter(report.photographs.values())), report.search.random(torch.Generator().manual_seed(0))
    return x.to(v), *(report.search.collide(x.to(v), v, beta) for beta in (512, 8192))


def _curve(report, photograph, number):
    search, generator = report.search, torch.Generator().manual_seed(number)
    mosaic = search.random(generator)
    noise = torch.randn(report.shape, generator=generator, dtype=torch.float64).to(mosaic)
    repeat = search.repeat(int(torch.randint(search.basis.shape[1], (), generator=generator)))
    x, made = photograph.to(mosaic), {}
    for name, tile in ("mosaic", mosaic), ("noise", noise * (mosaic.norm() / noise.norm())), ("repeat", repeat):
        made[name] = [search.collide(x, tile, beta) for beta in (_REPEATED if name == "repeat" else BETAS)]
    answers, stems = _run(report, [x, *made["mosaic"], *made["noise"], *made["repeat"]])
    changes = iter(((stems[1:] - stems[0]).norm(dim=1) / stems[0].norm()).tolist())
    kept = iter(answers[0].kept(answer) for answer in answers[1:])
    curve = {"classes": answers[0].scores is not None}
    for name, ys in made.items():
        curve[name] = {"change": [next(changes) for _ in ys]}
        shares = [next(kept) for _ in ys]
        if None not in shares:
            curve[name]["kept"] = shares
    if min(report.shape[1:]) >= _SSIM_WINDOW:
        from skimage.metrics import structural_similarity

        first, *others = (image.clamp(0, 1).cpu().numpy() for image in (x, *made["mosaic"]))
        curve["ssim"] = [float(structural_similarity(first, y, channel_axis=0, data_range=1)) for y in others]
    return curve


def _run(report, stack):
    """The :class:`Answer` to each image, and what the first layer makes of each as a row of a matrix."""
    name, answers, rows = report.search.layer.name, [], []
    for part in torch.stack(stack).split(max(1, _AT_ONCE // stack[0].numel())):
        with torch.no_grad(), hooks.untouched(report.twin), hooks.record(report.twin, [name]) as recording:
            returned = report.twin(hooks.fed(report.twin, part))
        answers += [Answer(report.twin, one) for one in _one_by_one(returned, len(part))]
        rows.append(recording.outputs[name][0].reshape(len(part), -1))
    return answers, torch.cat(rows)


def _one_by_one(returned, count):
    """What a network returned for a batch, as it returns it for batches of one."""
    if isinstance(returned, list) and len(returned) == count and isinstance(returned[0], Mapping):
        return [[one] for one in returned]  # a detector's
    if any(not tensor.ndim or len(tensor) != count for _, tensor in hooks.tensors(returned)):
        raise ValueError("what the network returns for a batch of images does not begin with one row for each")
    return [
        _pytree.tree_map(lambda leaf, k=k: leaf[k : k + 1] if isinstance(leaf, torch.Tensor) else leaf, returned)
        for k in range(count)
    ]


def _curve_claims(report, found, at_512):
    overlapping = report.search.geometry.overlapping
    for claim, recipe, place in ("repeated-vector-collides", "repeat", 1), ("mosaic-collides", "mosaic", at_512):
        if overlapping:
            least = found[recipe]["least"][place]
            report.measured(claim, overlapping_windows=(least, "smallest change after the first layer, β = 512"))
        else:
            most = max(found[recipe]["most"])
            report.measured(claim, separate_windows=(most, "largest change after the first layer, β from 8 to 8192"))
    if overlapping:
        least = found["mosaic"]["least"][at_512]
        report.measured("any-task", overlapping=(least, "smallest change after the first layer, β = 512"))
    else:
        x, _, y = _mosaics(report)
        changes = compare(report.twin, x, y).changes
        most = max(list(changes.values())[list(changes).index(report.search.layer.name) :])
        report.measured("any-task", from_stem_on=(most, "largest change from the first layer on, β = 8192"))
    if all(curve["classes"] for curve in found["photographs"].values()):
        start, name = (BETAS.index(128), "overlapping_windows") if overlapping else (0, "separate_windows")
        kept, what = found["mosaic"]["kept"][start:], f"share of mosaics that keep the class, β from {BETAS[start]} on"
        if min(found["noise"]["kept"]) == 1:
            found["words"].append(
                "It keeps what it says under white noise, too, so that keeping it is no evidence here."
            )
        else:
            report.measured("prediction-kept", **{name: (sum(kept) / len(kept), what)})
    curves = [curve.get("ssim", []) for curve in found["photographs"].values()]
    falls = [before - after for curve in curves for before, after in itertools.pairwise(curve)]
    if falls:
        report.measured(
            "distortion-grows", smallest_step=(min(falls), "smallest fall of the SSIM from one β to the next")
        )


def level_set(report, found):
    """An image like the second photograph with the features of the first."""
    if len(report.photographs) < 2:
        raise ValueError("a collision of two photographs needs two")
    (first, x), (second, target) = list(report.photographs.items())[:2]
    layer, products = (report.collide_at, math.inf) if report.collide_at else _where(report, x)
    level = LevelSet(report.model, layer, x)
    try:
        stop = level.nearest(target, report.steps, products)
    except RuntimeError as error:
        raise RuntimeError(
            f"{error}" + (f"; collide_at={layer!r} sets no bound" if products < math.inf else "")
        ) from error
    apart, pair = (
        float((stop.image - level.image).square().mean().sqrt()),
        compare(report.twin, level.image, stop.image),
    )
    found |= {"layer": layer, "outputs": len(level.features), "photograph": first, "target": second}
    found |= {"change": stop.change, "apart": apart, "distance": stop.distance}
    found["words"].append(
        f"A valid image, led from {first} towards {second}, has features at {layer} that differ from those of {first} "
        f"by {stop.change:.0e} of their size. Its RMS distance to {first} is {apart:.3f}, to {second} "
        f"{stop.distance:.3f}. Of the two that collide: {pair.agreement}."
    )
    report.pair = level.image, stop.image, layer
    report.pictures["level_set"] = [
        (f"{first}: {pair.said[0]}", x),
        (f"{second}: the target", target),
        (f"Collides with {first} from {layer} on: {pair.said[1]}", stop.image),
    ]
    report.measured(
        "resnets-collide",
        features=(stop.change, f"relative change at {layer} between a photograph and a valid image"),
        apart=(apart, "RMS distance between the two"),
    )


def _where(report, x):
    """The layer at which two photographs are to collide, and how many products with its Jacobian that may take."""
    with torch.no_grad(), hooks.untouched(report.twin), FlopCounterMode(display=False) as counter:
        scores = Answer(report.twin, report.twin(hooks.fed(report.twin, x)[None])).scores
    products = max(1, int(_WORK / max(1, counter.get_total_flops())))
    if scores is not None:
        return "logits", products
    first = counting.first_guaranteed(report.model, report.shape)
    if first is None:
        raise ValueError("no layer must collide; name one as collide_at")
    return first[0], products


def compared_maps(report, found):
    """Maps of two images that collide, against what theory forces to be equal."""
    try:
        at_stem = not report.search.geometry.overlapping
    except ValueError:
        at_stem = False
    if at_stem:
        x, y, _ = _mosaics(report)
        where = report.search.layer.name
    elif report.pair:
        x, y, where = report.pair
    else:
        raise ValueError("there are no two colliding images here, so no map is forced to agree")
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), hooks.untouched(report.twin), hooks.record(report.twin) as recording, counter:
        answer = Answer(report.twin, report.twin(hooks.fed(report.twin, x)[None]))
    start = recording.order.index(weights.first_weight(report.twin, report.shape).name)
    spatial = [name for name in recording.order[start:] if _has_maps(recording, name)]
    layers = report.layers or list(dict.fromkeys([*spatial[:1], *spatial[-1:]]))
    dense = answer.scores is None and next(iter(answer.tensors.values())).ndim == 4
    scores = _mean_scores if dense else None
    rows = maps.compare_maps(report.twin, x, y, layers, _METHODS, scores)
    runs = {name: _ablations(recording, name) for name in layers}
    few = [name for name in layers if runs[name] * counter.get_total_flops() <= _ABLATION]
    rows += maps.compare_maps(report.twin, x, y, few, ["ablation"], scores) if few else []
    found["words"] += [
        f"Ablation at {name} is left out: it would run the network {runs[name]:,} times."
        for name in layers
        if name not in few
    ]
    found["maps"] = [row._asdict() | {"layer": row.layer or "image", "side": row.side or "image"} for row in rows]
    forced = [row for row in rows if row.theory == maps.EQUAL]
    found |= {"collide_from": where, "forced": len(forced), "equal": sum(row.verdict == maps.EQUAL for row in forced)}
    found["words"].append(
        f"Of {len(rows)} maps of two images that collide from {where} on, {len(forced)} are forced to be equal, and "
        f"{found['equal']} of these are; {sum(row.verdict == maps.EQUAL for row in rows)} of all are."
        + (" What is explained is the mean score of all pixels." if dense else "")
    )
    with torch.no_grad(), hooks.untouched(report.twin):
        other = Answer(report.twin, report.twin(hooks.fed(report.twin, 1 - x)[None]))
    if all(torch.equal(*pair) for pair in zip(answer.tensors.values(), other.tensors.values(), strict=False)):
        found["words"].append("The network answers two different images alike, so its gradients prove nothing here.")
    elif at_stem:
        _map_claims(report, rows, where, recording.order[start + 1 :])


def _map_claims(report, rows, stem, after):
    at = {(row.method, row.layer, row.side): row.difference for row in rows}
    later = {key: difference for key, difference in at.items() if key[1] in after}
    behind = later | {key: difference for key, difference in at.items() if key[1:] == (stem, "output")}
    forward = [difference for key, difference in behind.items() if key[0] in ("activation", "ablation")]
    if forward:
        what = "largest difference of activation and ablation maps from the first layer's output on"
        report.measured("forward-maps-equal", difference=(max(forward), what))
    if later:
        what = "largest difference of all maps at later layers"
        report.measured("gradient-maps-equal-after", difference=(max(later.values()), what))
    saliency = at["saliency", None, None]
    report.measured("gradient-maps-differ-before", saliency=(saliency, "difference of the saliency maps"))
    if ("grad_cam", stem, "output") in at:
        report.measured(
            "grad-cam-differs-at-conv1",
            output=(at["grad_cam", stem, "output"], "difference of Grad-CAM at the first layer's output"),
            this_pair=(at["grad_cam", stem, "input"], "the same at its input"),
        )


def _has_maps(recording, name):
    tensors = [*recording.inputs[name], *recording.outputs[name]]
    return recording.order.count(name) == 1 and all(
        t is not None and t.ndim == 4 and t[0, 0].numel() > 1 for t in tensors
    )


def _ablations(recording, name):
    """How many times the network runs for two images' maps: once for each block of 4×4, at both sides of the layer."""
    tensors = *recording.inputs[name], *recording.outputs[name]
    return 2 * sum(math.prod(-(-side // 4) for side in tensor.shape[2:]) for tensor in tensors)


def _mean_scores(returned):
    return hooks.first_tensor(returned).mean((2, 3))


SECTIONS = {
    "count": ("Null spaces of the weights", count),
    "stem": ("The first layer", stem),
    "guaranteed": ("Where images must collide", guaranteed),
    "curves": ("The recipe, and white noise", curves),
    "level_set": ("Two photographs", level_set),
    "maps": ("Maps of two images that collide", compared_maps),
}

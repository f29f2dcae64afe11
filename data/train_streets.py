"""Train the two street networks that the course ships, on CamVid as SegNet used it.

    python data/train_streets.py --camvid DIR --work build/streets [first] [streetboxes] [streetnet]

DIR holds train, trainannot, val, valannot, test and testannot. An epoch is a pass over the 367 training frames; each
ends with a checkpoint in the work folder, from which an interrupted run goes on to the same bits (one thread, one
machine). What the course ships (``data/models``: weights, street_training.csv, street_scores.csv) is written when a
network is finished. Both start from a `first` network that labels pixels, which stays in the work folder, and keep its
stem: so they have the same.

Choices are made on the val part. The test part is only measured.
"""

import argparse
import copy
import math
from pathlib import Path

import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
import training
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.ops import box_area, box_iou, clip_boxes_to_image
from torchvision.transforms.v2 import functional as tv
from tqdm import tqdm

from collide_utils import checkpoints, images, models, streets

OUT, SHOWN = (Path(__file__).resolve().parent / name for name in ("models", "street"))
UNLABELLED = 11
BATCH, WEIGHT_DECAY, WARMUP, EMA = 8, 0.02, 0.05, 0.998
# The learning rate goes down along a cosine of `cycle` epochs, and from `leave` on straight to zero on top of that. A
# label counts by its rarity to the power `rarity`. `kept` are the parts of the body that stay as they were in `first`.
RECIPES = {
    "first": dict(network="streetnet", seed=11, lr=2e-3, cycle=100, leave=22, epochs=64, rarity=0.35, kept=()),
    "streetboxes": dict(
        network="streetboxes",
        seed=12,
        lr=1e-3,
        cycle=30,
        leave=15,
        epochs=30,
        rarity=0.35,
        kept=("conv1", "bn1", "layer1", "layer2", "layer3"),
    ),
    "streetnet": dict(
        network="streetnet", seed=13, lr=2e-3, cycle=160, leave=100, epochs=160, rarity=0.2, kept=("conv1", "bn1")
    ),
}
CROP, SCALES = (196, 252), (0.5, 1.0)  # what is trained on: pixels, and the size of the frame that they are cut from
SMALLEST_BOX = 100  # pixels of a component, in a frame of 480×360


# Data ----------------------------------------------------------------------------------------------------------------


def files(camvid, part):
    """Return the files of a part of CamVid as pairs (frame, labels), sorted."""
    return [
        (frame, Path(camvid) / f"{part}annot" / f"{frame.stem}.png")
        for frame in sorted((Path(camvid) / part).glob("*.jpg"))
    ]


def read_labels(path):
    """Return a label file as uint8 ``(H, W)``: places in ``streets.LABELS``, and 11 where a pixel has no label."""
    return torch.from_numpy(np.array(Image.open(path)))


def boxes(labels):
    """Return the boxes ``(n, 4)`` and classes ``(n,)`` of a frame's connected components, but of the smallest.

    Cars that touch in the picture are one component and get one box: CamVid's labels do not tell them apart.
    """
    found, kinds = [], []
    for kind, name in enumerate(streets.BOXED):
        components, _ = scipy.ndimage.label(labels.numpy() == streets.LABELS.index(name), np.ones((3, 3)))
        sizes = np.bincount(components.ravel())[1:]
        for (rows, columns), size in zip(scipy.ndimage.find_objects(components), sizes, strict=True):
            if size >= SMALLEST_BOX:
                found.append([columns.start, rows.start, columns.stop, rows.stop])
                kinds.append(kind)
    return torch.tensor(found, dtype=torch.float32).view(-1, 4), torch.tensor(kinds, dtype=torch.int64)


def augment(frame, labels, found, generator):
    """Return a random part of a frame at a random scale as ``(3, *CROP)``, recoloured, with its labels and boxes."""

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(shape, generator=generator)

    def place(room):
        return int(torch.randint(room + 1, (), generator=generator))

    scale = float(uniform(*map(math.log, SCALES)).exp())
    whole = frame.shape[-2:]
    rows, columns = (min(n, round(side / scale)) for n, side in zip(whole, CROP, strict=True))
    size = [min(side, round(n * scale)) for n, side in zip((rows, columns), CROP, strict=True)]
    top, left = place(whole[0] - rows), place(whole[1] - columns)
    image = tv.resized_crop(frame, top, left, rows, columns, size, antialias=True).float() / 255
    labels = tv.resized_crop(labels[None], top, left, rows, columns, size, tv.InterpolationMode.NEAREST)[0]
    corners, kinds = found
    corners = (corners - torch.tensor([left, top]).repeat(2)) * torch.tensor(
        [size[1] / columns, size[0] / rows]
    ).repeat(2)
    area = box_area(corners)
    corners = clip_boxes_to_image(corners, size)
    keep = box_area(corners) > (0.3 * area).clamp_min(SMALLEST_BOX * 0.7**2)
    corners, kinds = corners[keep], kinds[keep]
    if torch.rand((), generator=generator) < 0.5:
        image, labels = image.flip(-1), labels.flip(-1)
        corners = corners[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1]) + torch.tensor([size[1], 0, size[1], 0])
    grey = image.mean(0, keepdim=True)
    image = grey + uniform(0.4, 1.5) * (image - grey)  # saturation
    image = (image * uniform(0.8, 1.2, 3, 1, 1)).clamp(0, 1)  # colour of the light
    image = image ** uniform(-0.5, 0.5).exp()  # exposure
    mean = image.mean()
    image = (mean + uniform(0.6, 1.4) * (image - mean) + uniform(-0.15, 0.15)).clamp(0, 1)  # contrast, brightness
    below, right = CROP[0] - size[0], CROP[1] - size[1]  # where the scaled frame is smaller: its mean, unlabelled
    down, along = place(below), place(right)
    margins = (along, right - along, down, below - down)
    image = F.pad(image - image.mean(), margins) + image.mean()
    return (
        image,
        F.pad(labels, margins, value=UNLABELLED).long(),
        (corners + torch.tensor([along, down]).repeat(2), kinds),
    )


# Measures ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def confusion(model, pairs):
    """Return the counts ``(11, 11)`` of labelled pixels by true and by predicted label, at the labels' resolution."""
    counts = torch.zeros(len(streets.LABELS) ** 2, dtype=torch.int64)
    for frame, labels in pairs:
        truth = read_labels(labels)
        logits = F.interpolate(model(images.from_file(frame, model.input_size)[None]), truth.shape, mode="bilinear")[0]
        known = truth != UNLABELLED
        both = truth[known].long() * len(streets.LABELS) + logits.argmax(0)[known]
        counts += both.bincount(minlength=len(counts))
    return counts.view(len(streets.LABELS), -1)


def scores(counts):
    """Return the share of pixels that are right, and per class intersection over union, from `confusion`'s counts."""
    right = counts.diagonal().double()
    return float(right.sum() / counts.sum()), (right / (counts.sum(0) + counts.sum(1) - right)).tolist()


@torch.no_grad()
def average_precision(model, pairs, overlap=0.5):
    """Return per class the average precision at an IoU of `overlap`.

    As in PASCAL VOC from 2010 on: detections by falling score; each hits if the box of its frame that it overlaps most
    is free; the area under the precision, made monotonic, as a function of the recall.
    """
    hits, wanted = [[] for _ in streets.BOXED], [0 for _ in streets.BOXED]
    for frame, labels in pairs:
        truth = read_labels(labels)
        found = model(images.from_file(frame, model.input_size)[None])[0]
        factor = torch.tensor(truth.shape)[[1, 0, 1, 0]] / torch.tensor(model.input_size)[[1, 0, 1, 0]]
        corners, kinds = boxes(truth)
        for kind in range(len(streets.BOXED)):
            mine, targets = found["labels"] == kind, corners[kinds == kind]
            wanted[kind] += len(targets)
            free = [True] * len(targets)
            for row, score in zip(
                box_iou(found["boxes"][mine] * factor, targets), found["scores"][mine].tolist(), strict=True
            ):  # by falling score
                best = int(row.argmax()) if len(targets) else None
                hit = best is not None and float(row[best]) >= overlap and free[best]
                if hit:
                    free[best] = False
                hits[kind].append((score, hit))
    result = []
    for pairs_, count in zip(hits, wanted, strict=True):
        right = np.array([hit for _, hit in sorted(pairs_, key=lambda pair: -pair[0])], dtype=float)
        precision = right.cumsum() / np.arange(1, len(right) + 1)
        result.append(float((np.maximum.accumulate(precision[::-1])[::-1] * right).sum() / count))
    return result


def measure(model, pairs):
    """Return a dictionary of what a network reaches on some frames: a list per class, or one number for all."""
    if model.architecture == "streetboxes":
        return {"AP50": average_precision(model, pairs)}
    share, each = scores(confusion(model, pairs))
    return {"pixels": share, "IoU": each}


# Training ------------------------------------------------------------------------------------------------------------


def build(name, work):
    """Return an untrained network with what a finished `first` in `work` has for it, and the parts that stay so."""
    recipe = RECIPES[name]
    model = streets.build(recipe["network"], models.MEAN, models.STD)
    if name != "first":
        start = checkpoints.load_checkpoint(Path(work) / "first.safetensors").state_dict()
        shared = {key: value for key, value in start.items() if key in model.state_dict()}
        model.load_state_dict(model.state_dict() | shared)
    kept = [getattr(model.backbone, part) for part in recipe["kept"]]
    for part in kept:
        part.requires_grad_(False)
    return model, kept


def learning_rate(recipe, epoch):
    """Return the rate at a (fractional) epoch: up, down along a cosine, and from `leave` on straight to zero."""
    done = epoch / recipe["cycle"]
    rate = recipe["lr"] * min(done / WARMUP, 0.5 * (1 + math.cos(math.pi * done)))
    return rate * min(1, (recipe["epochs"] - epoch) / (recipe["epochs"] - recipe["leave"]))


def train(name, data, val, work, recipe):
    """Train a network from its last checkpoint in `work`, or from the start; returns its average (EMA) and the record.

    `data` and `val` are lists of pairs of files, as :func:`files` returns them.
    """
    frames = torch.stack([tv.pil_to_tensor(images.open_rgb(frame)) for frame, _ in data])
    labels = torch.stack([read_labels(path) for _, path in data])
    found = [boxes(frame) for frame in labels]
    counts = labels.flatten().bincount(minlength=UNLABELLED + 1)[:UNLABELLED].double()
    rarity = (counts.median() / counts).pow(recipe["rarity"]).clamp(0.5, 2.5).float()
    torch.manual_seed(recipe["seed"])
    generator = torch.Generator().manual_seed(recipe["seed"])
    model, kept = build(name, work)
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [dict(params=decayed, weight_decay=WEIGHT_DECAY), dict(params=others, weight_decay=0.0)], lr=recipe["lr"]
    )
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(EMA), use_buffers=True)
    checkpoint, parts = Path(work) / f"{name}.pt", dict(model=model, average=average, optimiser=optimiser)
    record = training.resume(checkpoint, parts, generator)
    steps, epochs = len(frames) // BATCH, recipe["epochs"]
    bar = tqdm(range(len(record), epochs), initial=len(record), total=epochs, desc=name, mininterval=30)
    for epoch in bar:
        model.train()
        for part in kept:
            part.eval()
        losses = []
        for step, rows in enumerate(torch.randperm(len(frames), generator=generator)[: steps * BATCH].split(BATCH)):
            rate = learning_rate(recipe, epoch + step / steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            views = [augment(frames[i], labels[i], found[i], generator) for i in rows.tolist()]
            x, y = (torch.stack([view[place] for view in views]) for place in (0, 1))
            with torch.autocast("cpu", torch.bfloat16):  # 1.6 times as fast
                if recipe["network"] == "streetnet":
                    loss = F.cross_entropy(model(x), y, rarity, ignore_index=UNLABELLED)
                else:
                    loss = sum(
                        model(x, [dict(boxes=corners, labels=kinds) for _, _, (corners, kinds) in views]).values()
                    )
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            average.update_parameters(model)
            losses.append(loss.item())
        row = dict(network=name, epoch=epoch + 1, lr=rate, loss=float(np.mean(losses)), val=None)
        if epoch % 10 == 9 or epoch + 1 == epochs:
            row["val"] = float(np.mean(list(measure(average.module.eval(), val).values())[-1]))
            bar.set_postfix(loss=f"{row['loss']:.3f}", val=f"{row['val']:.3f}")
        record.append(row)
        training.keep(checkpoint, parts, generator, record)
    return copy.deepcopy(average.module).eval(), record


def score_rows(name, model, part, pairs):
    """Return what :func:`measure` finds as rows of street_scores.csv."""
    rows = []
    for what, values in measure(model, pairs).items():
        named = zip(model.categories, values, strict=True) if isinstance(values, list) else [("all", values)]
        rows += [
            dict(network=name, part=part, frames=len(pairs), measure=what, of=of, value=value) for of, value in named
        ]
        if what != "pixels":
            rows.append(
                dict(
                    network=name, part=part, frames=len(pairs), measure=what, of="mean", value=float(np.nanmean(values))
                )
            )
    return rows


def main():
    parser = argparse.ArgumentParser(description="Train the street networks that the course ships.")
    parser.add_argument("--camvid", required=True, type=training.folder, help="the folder with train, trainannot, …")
    parser.add_argument("--work", default="build/streets", type=Path, help="checkpoints")
    args = training.start(parser, RECIPES)
    data = {part: files(args.camvid, part) for part in ("train", "val", "test")}
    data["shown"] = [(frame, frame.with_suffix(".png")) for frame in sorted(SHOWN.glob("*.jpg"))]
    for name in args.networks:
        model, record = train(name, data["train"], data["val"], args.work, RECIPES[name])
        training.replace_rows(OUT / "street_training.csv", name, record, RECIPES)
        models.save(model, (args.work if name == "first" else OUT) / f"{name}.safetensors")
        if name == "first":
            continue
        rows = [row for part in ("val", "test", "shown") for row in score_rows(name, model, part, data[part])]
        training.replace_rows(OUT / "street_scores.csv", name, rows, RECIPES)


if __name__ == "__main__":
    main()

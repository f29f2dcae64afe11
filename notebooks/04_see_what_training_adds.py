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
# # See what training adds
#
# Shapes give most of Table 1. The rest is lost rank: weights that are a little more singular than their shapes demand. Where
# does it come from? You will find three sources. One needs no training, one can be predicted from the learning rates alone,
# and all of them depend on what you call zero.
#
# **What you will do**
# - kill filters and see which tolerance notices;
# - predict how far training makes a network forget one direction of its head, and compare with the record of its training;
# - compute how often a square random matrix counts as singular.
#
# **What you will learn**
# - that a nullity without its tolerance is not a number;
# - why a ResNet-50's head can be expected to lose exactly one dimension.
#
# **What you need**: singular values, stochastic gradient descent with momentum and weight decay, cross-entropy. No GPU, no
# internet.
#
# `network` may be any name in `networks`: those whose training record is shipped.

# %%
import math

import numpy as np
import torch

from collide_utils import claims, counting, images, models, nullspace, randmat, weights
from collide_utils.show import charts, exercises

networks = ["patchnet", "patchnet-b", "patchnet-l2", "stridenet"]
network = "patchnet"
model = models.load(network)
all_weights = {name: weights.layer_weights(models.load(name)) for name in networks}
eps = torch.finfo(torch.float32).eps

# %% [markdown]
# ## The claim
#
# Table 1 gives $\nu$, the sum of the nullities and the nullity of the first weight for ten trained networks. We cannot
# recount them without those networks. What we can do is subtract the shapes, as in
# [notebook 03](03_count_null_spaces.ipynb), and look for what would explain the remainder:

# %%
for row in counting.published():
    c = counting.count(row["builder"])
    print(f"{row['model']:<32} ν {row['nu'] - c.nu:+}   sum {row['total_nullity'] - c.total_nullity:+5}   "
          f"first weight {row['first_nullity'] - c.first_nullity:+}")

# %% [markdown]
# In ResNet-18 all of it sits in the first weight. Each ResNet-50 has lost at least one dimension outside its first weight,
# and the secure ones have lost nothing else. In VGG-16 one more weight joins $\nu$. By shape only two can: the first, which
# has nullity 0, and a square one of 4096×4096. These three facts are what we would like to explain.

# %% [markdown]
# ## Kill filters
#
# A filter may end up in a state where the rest of the network never uses its output. From then on it has no gradient, and
# weight decay alone acts on it. A step of SGD with rate $\eta$, momentum $m$ and decay $\lambda$ shrinks it by about
# $1 - \frac{\eta\lambda}{1 - m}$. It gets small, but never zero.
#
# Our first weight has full rank, so we *make up* some dead filters. We shrink eight of its rows as if they had died in different
# epochs of the usual ImageNet recipe: 90 epochs of 5005 steps, rate 0.1, a tenth of it after every 30 epochs, momentum 0.9,
# decay 1e-4 (He et al., 2016).

# %%
def shrunk_since(epoch):
    rates = [0.1 ** (1 + later // 30) for later in range(epoch, 90)]
    return math.prod((1 - rate * 1e-4 / (1 - 0.9)) ** 5005 for rate in rates)


# %%
stem = all_weights[network][0].matrix[0]
killed = stem.clone()
for row, epoch in enumerate((0, 0, 1, 3, 5, 7, 9, 12)):
    killed[row] *= shrunk_since(epoch)
relative = [s / s[0] for s in map(torch.linalg.svdvals, (stem.double(), killed.double()))]
charts.lines(
    range(1, len(stem) + 1), {"eight filters killed": relative[1].tolist()}, f"The first weight of {network}",
    "number of the singular value", "singular value / largest", xscale="linear", style="dots",
    guides={"as shipped": relative[0].tolist(), "float32's tolerance": [max(stem.shape) * eps] * len(stem)},
    alt="Singular values of a first weight, falling gently. With eight filters killed the last eight form a staircase far "
        "below the others; the line of the tolerance passes above it.")

# %% [markdown]
# Eight singular values drop, to a staircase. Whether they count as zero depends on where the tolerance cuts. The line is
# the usual rule, of numpy, scipy and this course: the larger side of the matrix, times eps, times the largest singular
# value.

# %%
print(f"as shipped: nullity {nullspace.nullity(stem)}")
for name, rtol in {"1e-3": 1e-3, "float32's": None, "1e-6": 1e-6, "1e-7": 1e-7, "float64's": max(stem.shape) * 2.0**-52}.items():
    print(f"tolerance {name:<10} nullity {nullspace.nullity(killed, rtol)}")
for epoch in (0, 5, 10, 20, 30):
    one = torch.cat([stem[:1] * shrunk_since(epoch), stem[1:]])
    print(f"one filter, dead since epoch {epoch:>2}: nullity {nullspace.nullity(one)} by float32's tolerance")

# %% [markdown]
# So early deaths count and later ones do not. A first weight whose nullity is 84 or 90 instead of 83, as two of the
# ResNet-18 have in Table 1, looks like one and seven early deaths. It is an explanation, and no proof.

# %% [markdown]
# ## Find the direction that nobody pushes
#
# Take a head with weight $W$ before softmax and cross-entropy. For an image with features $h$, predicted probabilities $p$
# and targets $t$, the gradient of the row of class $k$ is $(p_k - t_k)\,h^\top$. Here is this factor for each class, for a
# photograph of a cat.

# %%
cat = images.load("chelsea", model.input_size)
push = model(cat[None])[0].softmax(0).detach()
push[model.categories.index("cat")] -= 1
charts.bars(
    dict(zip(model.categories, push.tolist(), strict=True)), "How an image of a cat pushes each row of the head",
    "p − t", alt="One bar for each class. The cat's is negative; all others are zero or positive, and together as large.")

# %%
print(f"sum of the pushes: {abs(float(push.sum())):.5f}")

# %% [markdown]
# The pushes sum to zero, since $p$ and $t$ both sum to one. **So no image ever moves the sum of the rows.** Weight decay
# alone acts on it, at every step. Its size is therefore *predicted*, from its size after the first epoch and the learning
# rates. The *fact* to compare with is the training record.

# %%
def predicted(record):
    sizes = [record[0]["head_ones"]]
    for epoch in record[1:]:
        sizes.append(sizes[-1] * (1 - epoch["lr"] * epoch["weight_decay"] / (1 - epoch["momentum"])) ** epoch["steps"])
    return sizes


records = {name: models.training_record(name) for name in networks}
record = records[network]
charts.lines(
    range(1, len(record) + 1), {"recorded": [epoch["head_ones"] for epoch in record]},
    f"The sum of the rows of {network}'s head", "epoch", "‖sum of rows‖ / √classes", xscale="linear", yscale="linear",
    guides={"predicted": predicted(record)}, style="dots",
    alt="The recorded size of the sum of the head's rows, as dots, falls along the predicted curve.")

# %%
error = {name: abs(predicted(record)[-1] / record[-1]["head_ones"] - 1) for name, record in records.items()}
for name, record in records.items():
    head = all_weights[name][-1].matrix[0].double()
    ones, singular = float(head.sum(0).norm() / len(head) ** 0.5), torch.linalg.svdvals(head)
    print(f"{name:<12} predicted {predicted(record)[-1]:.3f}, recorded {record[-1]['head_ones']:.3f}, shipped {ones:.3f}; "
          f"smallest singular values {singular[-1]:.3f}, {singular[-2]:.3f}")
print("every prediction within 3 %:", max(error.values()) < 0.03)

# %% [markdown]
# Prediction and record agree. (A shipped network may be a running average of the trained one; then its sum of rows lags
# behind the recorded one a little.) Our networks are trained for thousands of steps, so that the direction is fading but not
# gone. The ImageNet recipe above takes hundreds of thousands:

# %%
start = 1 / math.sqrt(3)  # of 1000 rows of 2048 entries, uniform between ± 1/√2048: PyTorch's start
print(f"predicted for a head of ResNet-50: from {start:.2f} to {start * shrunk_since(0):.0e}")
print(f"zero by float32's tolerance if the largest singular value is above {start * shrunk_since(0) / (2048 * eps):.0e}")

# %% [markdown]
# So a ResNet-50 trained by this recipe *should* have a head of rank 999, and Table 1 a remainder of one. It has, also for
# the secure ones, whose recipes differ. In ResNet-18 the same loss would not show: its head is 1000×512, and 999 rows still
# span 512 columns.

# %% [markdown]
# ## Watch a square weight be born singular
#
# For a square Gaussian matrix, [notebook 01](01_watch_the_smallest_eigenvalue.ipynb) gives the law of $n\lambda_{\min}$,
# and the largest singular value is near $2\sqrt n$. So the smallest one counts as zero when
# $n\lambda_{\min} \le (2 n^2\, \text{eps})^2$. How likely is that, without any training?

# %%
rng = np.random.default_rng(0)
sizes = [64, 128, 256, 512, 1024, 2048, 4096]
bounds = [(2 * n**2 * eps) ** 2 for n in sizes]
drawn = [np.mean(n * randmat.sample_smallest_eigenvalues(n, n, 100, rng) <= bound)
         for n, bound in zip(sizes, bounds, strict=True)]
charts.lines(
    sizes, {"100 draws each": drawn}, "How often float32's tolerance calls a square matrix singular", "n", "share",
    yscale="linear", style="dots", guides={"limit law": [float(randmat.limit_cdf(bound)) for bound in bounds]},
    alt="The share of random square matrices that count as singular rises with n, from nearly 0 at 64 to 1 at 4096.")

# %%
print(f"n = 64: {randmat.limit_cdf(bounds[0]):.1%}; n = 4096: {randmat.limit_cdf(bounds[-1]):.1%}")
for name, found in all_weights.items():
    smallest = [torch.linalg.svdvals(w.matrix[0].double()) for w in found if w.matrix.shape[1] == w.matrix.shape[2]]
    print(f"{name:<12} square weights that count as singular: {sum(bool(s[-1] <= len(s) * eps * s[0]) for s in smallest)} "
          f"of {len(smallest)}")

# %% [markdown]
# At 4096 it is all but certain. So VGG-16's extra weight in $\nu$ need not come from training at all. Our own square
# weights are 64×64, where chance hardly ever does it: if one of them counts as singular, it is training that brought it
# there.

# %% [markdown]
# ## Choose a tolerance
#
# How many null dimensions, beyond those of the shapes, do the shipped networks have? That depends:

# %%
tolerances = [10 ** (e / 4) for e in range(-28, -7)]
spectra = {name: [torch.linalg.svdvals(w.matrix[0].double()) for w in found] for name, found in all_weights.items()}
beyond = {name: [sum(int((s <= rtol * s[0]).sum()) for s in found) for rtol in tolerances] for name, found in spectra.items()}
charts.lines(
    tolerances, beyond, "Null dimensions beyond those of the shapes", "tolerance, relative to the largest singular value",
    "dimensions, all weights together", yscale="linear", style="steps",
    alt="Number of additional null dimensions against the tolerance, for the shipped networks: hardly any at small "
        "tolerances, then a steep rise towards 0.01.")

# %% [markdown]
# Where the curves are flat, a count means something. Where they rise, singular values are merely small, and the count
# measures how fast they fall. The supplement does not say which tolerance it used.

# %%
share = min(counting.count(row["builder"]).total_nullity / row["total_nullity"] for row in counting.published())
print(claims.check("table-nullities", share_by_shape=share, head_prediction=max(error.values()), square_weight=drawn[-1]))

# %% [markdown]
# ## Limits
#
# - All three sources are *possible* explanations of Table 1. Only its ten networks could decide.
# - The law of square matrices assumes Gaussian entries, which trained weights do not have.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Die late.** By which factor does a filter still shrink that dies after 45 of the 90 ImageNet epochs?

# %%
answer = ...
rates = [0.1 ** (1 + epoch // 30) for epoch in range(90)]
check = exercises.checker(lambda factor: abs(math.log(factor) + sum(rates[45:]) * 5005 * 1e-3) < 0.01)
check(answer)

# %% jupyter={"source_hidden": true}
# 15 epochs at rate 0.01 and 30 at 0.001 are left: exp(−5005 · (15 · 1e-5 + 30 · 1e-6)) = 0.41. It stays a filter.
check(math.exp(-5005 * (15e-5 + 30e-6)))

# %% [markdown]
# **2. Count with a tolerance.** A 1000×2048 matrix in float32 has the singular values 100, 998 times 1, and
# 0.01. What is its nullity by the usual rule?

# %%
answer = ...
values = torch.tensor([100.0, *[1.0] * 998, 0.01])
check = exercises.checker(lambda n: n == nullspace.nullity(torch.cat([values.diag(), torch.zeros(1000, 1048)], 1)))
check(answer)

# %% jupyter={"source_hidden": true}
# The tolerance is 2048 · eps · 100, about 0.024. So 0.01 counts as zero, the rank is 999, and the nullity 1049.
check(2048 - 999)

# %% [markdown]
# **3. Shrink it all.** Weight decay acts on all filters alike. If it shrank a whole weight by a factor of a million, by how
# much would its nullity grow?

# %%
answer = ...
check = exercises.checker(lambda growth: growth == nullspace.nullity(1e-6 * all_weights[network][0].matrix[0]) - nullspace.nullity(all_weights[network][0].matrix[0]))
check(answer)

# %% jupyter={"source_hidden": true}
# Not at all: the tolerance is relative to the largest singular value, which shrinks as well.
check(0)

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
# # Count null spaces
#
# Table 1 of the supplement counts how many weights of ten trained networks have a null space, and how large these are. Most
# of its numbers need no trained weight at all. You will compute them from shapes, and then ask of each what it says about
# images.
#
# **What you will do**
# - read the null space of a weight off its shape, and recompute Table 1;
# - subtract the shapes from the table, and look at what is left;
# - compare secure networks with regular ones on that remainder;
# - count again, layer by layer, what *images* lose.
#
# **What you will learn**
# - which null spaces a network is born with;
# - why a majority of weights with a null space is no majority of layers with one.
#
# **What you need**: rank and nullity. No GPU, no internet, no weights.
#
# `network` may be any builder's name in torchvision. Null spaces here are those of matrices, until the section on images.

# %%
from collections import defaultdict

from torchvision.models import get_model_builder

from collide_utils import claims, counting
from collide_utils.show import charts, drawings, exercises, pictures

network = "resnet18"
table = counting.published()
keys = ["nu", "nu_percent", "mu", "mu_percent", "total_nullity", "first_nullity"]
heads = ["network", "ν", "ν / n in %", "μ", "μ / n in %", "sum of nullities", "nullity of the first"]

# %% [markdown]
# ## The claim
#
# Section 2.1 takes each convolution and each linear layer as a matrix with one row per output. Of the $n$ matrices of a
# network, $\nu$ have a null space, and $\mu$ have more columns than rows. The table adds the dimensions of all null spaces.
# From it the supplement concludes that feature collisions exist for a majority of the weights, and that secure networks
# (trained against attacks by Salman et al., 2020) and regular ones show significant similarities.

# %%
pictures.table([(row["model"], *(row[key] for key in keys)) for row in table], heads,
               caption="Table 1 as published. A click on a column's head sorts.")

# %% [markdown]
# ## Read a null space off a shape
#
# A matrix with 3 rows gives 3 equations. With 7 unknowns, at least 4 dimensions are left over, whatever its entries are.
# With as many rows as columns, or more, nothing needs to be left over: a random matrix has full rank.

# %%
drawings.matrix_shapes()

# %% [markdown]
# So a matrix of $r$ rows and $c$ columns has a nullity of at least $\max(0, c - r)$. Convolutions are wide matrices: one
# from $C$ to $C$ channels with 3×3 windows has $C$ rows and $9C$ columns, and eight ninths of those are left over.

# %%
rows = counting.per_layer(network)
charts.null_shares(
    rows, f"The weights of {network}, by shape alone",
    alt=f"One bar for each of the {len(rows)} weights of {network}, divided into the share of columns that its rows can see "
        "and the rest, its null space.")

# %% [markdown]
# ## Recompute the table
#
# `counting.count` builds a network without any memory behind its weights and counts shapes. The table cuts its percentages
# off (17/21 is 80.95 %, printed as 80), and so do we.

# %%
shapes = {row["builder"]: counting.count(row["builder"]) for row in table}


def from_shapes(row):
    c = shapes[row["builder"]]
    nu_percent, mu_percent = c.truncated_percents
    return [c.nu, nu_percent, c.mu, mu_percent, c.total_nullity, c.first_nullity]


left = {row["model"]: [row[key] - value for key, value in zip(keys, from_shapes(row), strict=True)] for row in table}
pictures.table([(model, *values) for model, values in left.items()], heads, caption="Published minus shapes.")

# %%
zeros = sum(value == 0 for values in left.values() for value in values)
share = min(shapes[row["builder"]].total_nullity / row["total_nullity"] for row in table)
print(f"{zeros} of {len(table) * len(keys)} numbers are those of the shapes")
print(f"of each sum of nullities, shapes give at least {share:.1%}")
print(claims.check("table-mu", difference=max(abs(values[2]) for values in left.values())))

# %% [markdown]
# No published number is below its shape's, as it must be. Column μ says nothing about weights at all, trained, secure or
# otherwise. What is left elsewhere is *lost rank*: singular values that training, or the tolerance of the count, made zero.
# The [next notebook](04_see_what_training_adds.ipynb) shows three ways in which this happens.

# %% [markdown]
# ## Compare secure and regular networks
#
# Two networks of one architecture must agree in whatever the shapes fix. So if we ask whether secure networks are like
# regular ones, only the remainder can answer.

# %%
groups = defaultdict(lambda: {"regular": [], "secure": []})
for row in table:
    groups[row["builder"]]["secure" if "secure" in row["model"] else "regular"].append(left[row["model"]][4])
charts.strips(
    groups, "Null dimensions beyond those of the shapes", "dimensions, all weights together", xscale="symlog",
    limits=(-0.3, 3000),
    alt="Dots on a logarithmic scale for three architectures. ResNet-18: the regular network 7, secure ones 0 and 1. "
        "ResNet-50: regular 18, secure 1. VGG-16: regular 21, secure 1,213.")

# %%
ratios = {name: max(found["secure"] + found["regular"]) / min(found["secure"] + found["regular"])
          for name, found in groups.items() if min(found["secure"] + found["regular"])}
for name, found in groups.items():
    print(f"{name:<10} regular {found['regular']}, secure {found['secure']}")
print(claims.check("secure-like-regular", factor=min(ratios.values())))

# %% [markdown]
# Where shapes do not decide, the two kinds are not alike. In the ResNets the regular network has lost more rank; in VGG-16
# the secure one has, by far. Ten networks are too few to say why.

# %% [markdown]
# ## Count layers, not matrices
#
# A null vector of a matrix is *one window* that gives no response. An image has many windows, and where they overlap each
# pixel must satisfy several at once ([notebook 02](02_search_a_null_space.ipynb)). So count again: which *layers* map some
# image to zero?
#
# Take a convolution of stride $s$ and cut the image into cells of $s \times s$ pixels. There is one window for each cell.
# So a cell brings $C_{\text{in}} s^2$ unknowns and $C_{\text{out}}$ equations. A layer with generic weights has a null
# space if the unknowns are more, or if its windows skip some pixels. [Notebook 09](09_mind_the_overlap.ipynb) derives this.

# %%
both = {name: {"as matrices (Table 1)": [c.mu / c.n], "as layers, on images": [c.nu_layers / c.n]}
        for name, c in shapes.items()}
charts.strips(
    both, "Which share has a null space?", "share of the weights or layers, by shape",
    alt="For three architectures, two dots each. As matrices, between 0.6 and 0.9 have a null space. As layers on images, "
        "fewer than half.")

# %%
for name, c in shapes.items():
    print(f"{name:<10} {c.mu} of {c.n} weights have a null space as matrices, {c.nu_layers} as layers on images")
print(claims.check("majority-of-weights", by_weight=min(row["nu_percent"] for row in table),
                   by_layer=100 * max(c.nu_layers / c.n for c in shapes.values())))

# %% [markdown]
# As matrices a majority, as layers a minority. Which of the two counts for a collision? The second one, since what a
# network is given is an image.

# %% [markdown]
# ## Ask every architecture
#
# The same two shares for all of torchvision: classification, segmentation, detection, video, optical flow.

# %%
families = defaultdict(lambda: {"as matrices": [], "as layers, on images": []})
atlas = counting.atlas()
for row in atlas:
    family = families[get_model_builder(row.name).__module__.removeprefix("torchvision.models.")]
    family["as matrices"].append(row.mu / row.n)
    family["as layers, on images"].append(row.nu_layers / row.n)
charts.strips(
    dict(sorted(families.items())), "Which share has a null space, in all of torchvision?", "share of the weights or layers",
    alt="One line for each family of architectures, with two dots for each of its networks. For networks of overlapping "
        "convolutions the share of layers is far below that of matrices; for transformers, which have hardly any, the two "
        "are equal.")

# %%
print(f"of {len(atlas)} architectures, a majority has a null space in {sum(2 * row.mu > row.n for row in atlas)} as matrices, "
      f"in {sum(2 * row.nu_layers > row.n for row in atlas)} as layers on images")

# %% [markdown]
# The exceptions narrow without overlap: a DenseNet, for one, is full of 1×1 convolutions with fewer outputs than inputs.
#
# To count your own checkpoints, name a folder here. Files are read as tensors only: one that would have to run code is
# refused. File names begin with the architecture, as in `resnet50_l2_eps0.01.ckpt`; the `robustness` files of Salman et al.
# can be read.

# %%
folder = None
for row in counting.count_folder(folder) if folder else []:
    print(row.name, row.error or f"n {row.n}, ν {row.nu}, μ {row.mu}, sum {row.total_nullity}, first {row.first_nullity}")

# %% [markdown]
# ## Limits
#
# - The trained numbers of Table 1 cannot be recomputed without its ten checkpoints.
# - By shape, a layer counts as if its weights were generic. Training can only add null spaces.
# - "VGG-16" is read as torchvision's `vgg16_bn`; without batch normalisation the weights have the same shapes.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Close the null space.** A first layer has 7×7 windows of three colours. How many filters does it need at least, so
# that its matrix need not have a null space?

# %%
answer = ...
check = exercises.checker(lambda filters: filters == 7 * 7 * 3)
check(answer)

# %% jupyter={"source_hidden": true}
# A window has 7 · 7 · 3 = 147 numbers, so 147 filters make the matrix square.
check(147)

# %% [markdown]
# **2. Close it for images.** Its stride is 2. How many filters are enough for the *layer* to be injective on images, if
# weights are generic?

# %%
answer = ...
check = exercises.checker(lambda filters: filters == 3 * 2 * 2)
check(answer)

# %% jupyter={"source_hidden": true}
# A cell of 2×2 pixels and three colours brings 12 unknowns, so 12 filters are enough. A ResNet's first layer has 64.
check(12)

# %% [markdown]
# **3. Hide a lost rank.** A head is a 1000×512 matrix and has full rank. Now one of its rows becomes a combination of the
# others. By how much does its nullity grow? And that of a 1000×2048 head? Answer with two numbers, `(a, b)`.

# %%
answer = ...
check = exercises.checker(lambda pair: tuple(pair) == (0, 1))
check(answer)

# %% jupyter={"source_hidden": true}
# The tall matrix still has 512 independent rows, so 0; the wide one has 999 instead of 1000, so 1: as in Table 1.
check((0, 1))

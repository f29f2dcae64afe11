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
# # Fool two networks with one image
#
# Two networks, trained from different random numbers, share not one basis vector of their null spaces. Still there is
# an image of colour noise that *both* of them take for the same cat, down to rounding. For three networks there is
# none.
#
# **What you will do**
# - compare the null spaces of three networks, first vector by vector, then as subspaces;
# - build one image that collides in two networks at once, and try it with three;
# - measure whether training brings null spaces closer together than chance.
#
# **What you will learn**
# - why a list of basis vectors is the wrong thing to compare, and what principal angles are;
# - how to count shared dimensions before computing anything;
# - what two networks that never met have in common.
#
# **What you need**: notebook 02, *Search a null space for colliding images*; singular values. No GPU, no internet;
# about half a minute on two processor cores.

# %%
from itertools import combinations

import torch

from collide_utils import claims, images, models, nullspace, weights, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, pictures

names = ["patchnet", "patchnet-b", "patchnet-l2"]
networks = {name: models.load(name, dtype=torch.float64) for name in names}
searches = {name: NullSpaceSearch(network) for name, network in networks.items()}
bases = {name: search.basis for name, search in searches.items()}
pairs = list(combinations(names, 2))
cat = images.load("chelsea")

# %% [markdown]
# ## The claim
#
# Section 2.2 of the supplement asks whether one perturbation could serve several models. It compares the basis
# vectors of the ResNets' first weights, whose windows are alike, 7×7 pixels of three colours. All are found to be
# unique. From that it concludes that colliding data points must be made for each model on its own and cannot be
# transferred.
#
# The first half is an observation, the second a conclusion. We test each. Our three networks have first weights of the
# same shape as a ResNet's, 64×147, and windows that do not overlap, so that a null vector of the weight is one of the
# layer. `patchnet` and `patchnet-b` differ in their random numbers; `patchnet-l2` was trained on adversarial images and
# stands in for the "secure" models. The bases are those of pixel space: each network's normalisation is in them.

# %% [markdown]
# ## Compare vector by vector
#
# Two unit vectors are the same, up to sign, when the absolute value of their cosine is 1. Between two networks there
# are 83 × 83 cosines.

# %%
closest = {pair: float((bases[pair[0]].T @ bases[pair[1]]).abs().max()) for pair in pairs}
for (a, b), cosine in closest.items():
    print(f"{a} and {b}: largest |cosine| between 0.4 and 0.8: {0.4 < cosine < 0.8}")

# %% [markdown]
# Nothing is shared; so far the supplement is right. But now compare a network *with itself*. A basis is not unique:
# turn it by any orthogonal matrix and it spans the same space.

# %%
generator = torch.Generator().manual_seed(0)
turn = torch.linalg.qr(torch.randn(83, 83, generator=generator, dtype=torch.float64))[0]
V = bases["patchnet"]
turned = V @ turn
own = float((V.T @ turned).abs().max())
print("the same space:", torch.allclose(V @ V.T, turned @ turned.T, atol=1e-12))
print(f"largest |cosine| between 0.4 and 0.8: {0.4 < own < 0.8}")

# %% [markdown]
# By this measure `patchnet` shares nothing with `patchnet`. The singular value decomposition had to return *some* basis
# of an 83-dimensional space in which every direction is as good as any other; which one is an accident of the library.
# (That is why we print no digits here: another machine has another basis.) What belongs to the network is the space.

# %% [markdown]
# ## Compare the spaces
#
# Two spaces in $\mathbb{R}^{147}$ of 83 dimensions each cannot avoid each other. Vectors that both networks map to zero
# satisfy 64 + 64 equations in 147 unknowns, and
#
# $$\dim(N_1 \cap N_2) \ge 83 + 83 - 147 = 147 - 2 \cdot 64 = 19 .$$
#
# Three networks make 192 equations, more than there are unknowns. `shared_null_space` solves them together; each
# matrix is first replaced by an orthonormal basis of its rows, so that a network with small weights counts as much as
# one with large.

# %%
def pixel_weight(network):
    """Return the first weight of a network of `models` as a matrix that acts on pixels."""
    return weights.first_weight(network).matrix[0] / network.normalize.std.flatten().repeat_interleave(7 * 7)


W = {name: pixel_weight(network) for name, network in networks.items()}
shared = {some: nullspace.shared_null_space(*(W[name] for name in some)) for some in [*pairs, tuple(names)]}
for some, basis in shared.items():
    print(f"{', '.join(some)}: {basis.shape[1]} shared dimensions")

# %% [markdown]
# The *principal angles* say more. The first is the smallest angle between a vector of one space and a vector of the
# other, the next the smallest among what is orthogonal to those, and so on: 83 angles, which no choice of basis
# changes. An angle of zero is a shared dimension.

# %%
angles = {pair: nullspace.principal_angles(bases[pair[0]], bases[pair[1]]) for pair in pairs}
for (a, b), values in angles.items():
    print(f"{a} and {b}: {int((values < 1e-12).sum())} angles below 1e-12, then {values[19].rad2deg():.2f}°, "
          f"the last {values[-1].rad2deg():.1f}°")

# %% [markdown]
# Nor does this depend on our networks. Three untrained ResNets of torchvision, with the stem that the supplement
# speaks of, share just as much. (Their weights do; their windows overlap, so a shared vector of the weights makes no
# colliding image there: that is the subject of notebook 07, *Mind the overlap*.)

# %%
resnets = {name: pixel_weight(models.load(name, weights=None)) for name in ("resnet18", "resnet34", "resnet50")}
for some in [*combinations(resnets, 2), tuple(resnets)]:
    dimension = nullspace.shared_null_space(*(resnets[name] for name in some)).shape[1]
    print(f"{', '.join(some)}: {dimension} shared dimensions")

# %% [markdown]
# ## Build one image for two networks
#
# Draw white noise, project each window onto a null space and scale it to norm 1: as random as a perturbation in that
# space can be, and no basis vector is favoured. Where windows do not overlap, `windows.tile` puts them together.

# %%
noise = torch.randn(32, 32, 147, generator=generator, dtype=torch.float64)


def inside(basis):
    """Return the noise projected onto the span of `basis`, window by window, as a perturbation (3, 224, 224)."""
    projected = noise @ basis @ basis.T
    return windows.tile(searches["patchnet"].geometry, projected / projected.norm(dim=-1, keepdim=True))


two = inside(shared["patchnet", "patchnet-b"])
fooled = searches["patchnet"].collide(cat, two, 8192)
results = {name: compare(network, cat, fooled) for name, network in networks.items()}
for name in ("patchnet", "patchnet-b"):
    print(f"{name}\n{results[name]}\n")

# %%
def said(image, name):
    result = compare(networks[name], cat, image)
    return f"{name} says {result.predictions[1]} ({result.probabilities[1]:.3f})"


shown = {beta: searches["patchnet"].collide(cat, two, beta) for beta in (0, 512, 8192)}
pictures.images(
    [pictures.perturbation(two[:, :28, :28]), *shown.values()],
    ["the perturbation\n(4×4 of its windows)", *(f"β = {beta}: {said(y, 'patchnet')},\n{said(y, 'patchnet-b')}"
                                              for beta, y in shown.items())],
    alt="Four pictures: sixteen windows of fine colour noise; a photograph of a cat; the same with grain; and nothing "
        "but colour noise. Under the last three, two networks say cat, each with a probability that does not change.")

# %% [markdown]
# One image, in which nobody sees a cat, and two networks that compute the same from it as from the photograph. (As
# everywhere in this course, the picture is clipped for the screen; the networks see the unclipped numbers.)
#
# Now all seven photographs and all β. Beside it the supplement's way: a perturbation from the null space of `patchnet`
# alone, given to `patchnet-b`.

# %%
def stem_changes(v, name, betas, photographs=None):
    """Return the relative changes after the stem of a network, for every photograph and every β."""
    photographs = photographs or [images.load(photograph) for photograph in images.names()]
    results = [compare(networks[name], x, searches[name].collide(x, v, beta)) for x in photographs for beta in betas]
    return [dict(result.changes)["conv1"] for result in results]


betas = [8 * 4**k for k in range(6)]
both = [change for name in ("patchnet", "patchnet-b") for change in stem_changes(two, name, betas)]
transferred = stem_changes(inside(bases["patchnet"]), "patchnet-b", [512])
print(f"for two networks: {len(both)} changes, all below 1e-10: {max(both) < 1e-10}")
print(f"made for patchnet, given to patchnet-b, β = 512: changes from {min(transferred):.1%} to {max(transferred):.1%}")

# %% [markdown]
# An image made for one network does not transfer. An image made for two does not need to.

# %% [markdown]
# ## Try it with three
#
# No vector is null for all three. What is the best there is? Put orthonormal bases of the three row spaces (all that
# each network can see) on top of each other. The singular vector of the smallest singular value is the unit vector
# whose three visible parts have the smallest sum of squares. Its angle to each null space says how much each network
# still sees.

# %%
rows = {name: nullspace.null_space(basis.T).T for name, basis in bases.items()}
_, s, directions = torch.linalg.svd(torch.cat(list(rows.values())))
best = directions[-1:].T
print(f"smallest singular value: {s[-1]:.3f}")
for name, basis in bases.items():
    angle = float(nullspace.principal_angles(best, basis).rad2deg())
    print(f"{name}: the best vector is {angle:.1f}° from its null space")

# %% [markdown]
# At four degrees, 7 % of the vector's length is visible to each network. The table gives what comes of it, the
# relative feature change after the stem at β = 512.

# %%
recipes = {"null space of patchnet": inside(bases["patchnet"]), "shared by patchnet and -b": two,
           "best vector for all three": inside(best), "white noise": inside(torch.eye(147, dtype=torch.float64))}
table = {recipe: [stem_changes(v, name, [512], [cat])[0] for name in names] for recipe, v in recipes.items()}
print(f"{'β = 512':<27}" + "".join(f"{name:>13}" for name in names))
for recipe, changes in table.items():
    print(f"{recipe:<27}" + "".join(f"{'rounding' if c < 1e-10 else f'{c:.1%}':>13}" for c in changes))

# %%
three = [change for name in names for change in stem_changes(recipes["best vector for all three"], name, [512])]
print(f"best vector for all three, over all photographs: at least {min(three):.1%}")
quiet = searches["patchnet"].collide(cat, recipes["best vector for all three"], 512)
for name, network in networks.items():
    print(f"{name}: {compare(network, cat, quiet).verdict}")

# %% [markdown]
# So three networks at once fail, though quietly: the change is ten times smaller than that of noise or more, and far
# above rounding. And a warning: the class is kept all the same. A kept class is no collision; only the features tell.

# %% [markdown]
# ## Closer than chance?
#
# Training pushed all three networks towards photographs. Did it bring their null spaces together? We need a
# yardstick. For orthonormal bases $A$ and $B$ the mean squared cosine of the principal angles is $\lVert A^\top
# B\rVert_F^2 / 83 = \operatorname{tr}(P_A P_B) / 83$, with the projections $P = AA^\top$. If one space points in a
# uniformly random direction, the mean of its projection must look the same from everywhere, so it is a multiple of
# the identity, and of trace 83: $\mathbb{E} P_B = \frac{83}{147} I$. Hence the mean squared cosine to expect from
# chance is $83/147 = 0.565$.
#
# How far chance strays from it we learn from 200 pairs of random stems.

# %%
def random_angles():
    first, second = torch.randn(2, 64, 147, generator=generator, dtype=torch.float64)
    return nullspace.principal_angles(nullspace.null_space(first), nullspace.null_space(second))


chance = torch.stack([random_angles() for _ in range(200)])
random_means = chance.cos().square().mean(1)
trained_means = {pair: float(values.cos().square().mean()) for pair, values in angles.items()}
print(f"expected from chance {83 / 147:.3f}; 200 random pairs: {random_means.mean():.3f} ± {random_means.std():.3f}, "
      f"largest {random_means.max():.2f}")
for (a, b), mean in trained_means.items():
    print(f"{a} and {b}: {mean:.3f}")
assert min(trained_means.values()) > 83 / 147 + 10 * float(random_means.std())
assert max(trained_means.values()) - min(trained_means.values()) < float(random_means.max() - random_means.min())

# %%
charts.against_band(
    {" and ".join(pair): values.rad2deg().tolist() for pair, values in angles.items()},
    ("200 pairs of random stems", chance.min(0).values.rad2deg(), chance.max(0).values.rad2deg()),
    "Principal angles between null spaces", "number of the angle", "angle (degrees)",
    alt="Eighty-three principal angles in rising order for three pairs of trained networks, over a grey band of random "
        "pairs. Nineteen are zero for all. Then the band jumps to five degrees and more, while the three trained "
        "lines, almost one, start near one degree, stay below the band, and enter it at about the sixtieth angle.")

# %% [markdown]
# The trained pairs lie more than ten standard deviations above chance (the cell asserts it): their null spaces are
# closer, though far from the same. The robust network is no exception: the three pairs differ from each other by less
# than the random pairs do. By this measure, "secure" and regular are alike.
#
# Where does it come from? Photographs vary slowly from pixel to pixel, so every network learns to look at low spatial
# frequencies, and what two networks both look at is in neither null space. Write the windows in the discrete cosine
# basis and ask what share of each frequency lies in the null space; chance would give 0.56 throughout.

# %%
position, frequency = torch.arange(7.0, dtype=torch.float64), torch.arange(7.0, dtype=torch.float64)[:, None]
cosine_basis = torch.nn.functional.normalize(torch.cos(torch.pi * (position + 0.5) * frequency / 7))
ring = torch.maximum(frequency, frequency.T)
print("frequency, half waves per window ", *(f"{k:5d}" for k in range(7)))
for name, basis in bases.items():
    spectrum = cosine_basis @ basis.T.reshape(83, 3, 7, 7) @ cosine_basis.T
    share = spectrum.square().sum((0, 1)) / 3
    print(f"{name:<33}", *(f"{share[ring == k].mean():5.2f}" for k in range(7)))

# %% [markdown]
# Almost nothing of an even colour is in a null space, less than chance of slow waves, a little more than chance of
# fast ones, and all three networks agree on it. How many directions does that make? If two networks had $k$ visible
# directions in common and were random in the rest, their null spaces would be random in $147 - k$ dimensions, and the
# mean squared cosine would be $83 / (147 - k)$. Solved for $k$:

# %%
for (a, b), mean in trained_means.items():
    print(f"{a} and {b}: as if {147 - 83 / mean:.0f} visible directions were common")

# %% [markdown]
# ## The verdict
#
# - *Basis vectors are unique to each model.* One by one they are, but so are two bases of one network. The spaces of any two
#   networks share 19 dimensions.
# - *Colliding data points cannot be transferred.* An image made for one network collides in no other. But one image
#   can be made for two. From three networks on the claim is right.

# %%
fewest = min(shared[pair].shape[1] for pair in pairs)
one_by_one = max(*closest.values(), own) < 0.9
measured = "fails" if not one_by_one else "holds if compared one by one" if fewest else "holds"
print(claims.check("basis-vectors-unique", measured, largest_cosine=max(closest.values()), own_cosine=own,
                   shared_dimensions=fewest))

fools_two, fools_three = max(both) < 1e-10, min(three) < 1e-10
measured = {(False, False): "holds", (True, False): "holds if three or more networks are to collide at once"}.get(
    (fools_two, fools_three), "fails")
print(claims.check("collisions-do-not-transfer", measured, made_for_one=min(transferred), made_for_two=max(both),
                   made_for_three=min(three)))

# %% [markdown]
# ## Limits
#
# - The count 147 − 64·k is for first weights of 64×147. A patch of 32×32 pixels, as in `vit_b_32`, has 3072 columns
#   and 768 rows: there, three such networks share 768 dimensions, and only four may share none.
# - Windows that differ cannot be compared one by one, but equations can still be counted, over the whole image:
#   `patchnet` makes 64·32² of them and `vit_b_32` 768·7², together 103,168 for 150,528 unknowns. They share images,
#   too; finding them is a bigger problem than one of 147 columns.
# - One robust network of one strength is no population. That it is no exception here does not say that none is.
# - Chance means Gaussian weights. What training adds to it we measured on three small networks.

# %% [markdown]
# ## Exercises
#
# **1. Make room for four.** How many filters may each of four networks have at most, so that one image collides in
# all of them, whatever their weights are? Check with random matrices, and check that one filter more is too many.

# %% jupyter={"source_hidden": true}
def dimension(networks, filters):
    stems = torch.randn(networks, filters, 147, generator=generator, dtype=torch.float64)
    return nullspace.shared_null_space(*stems).shape[1]


# k networks of r filters make k·r equations in 147 unknowns: something is left if k·r < 147.
largest = (147 - 1) // 4
for filters in (largest, largest + 1):
    print(f"{filters} filters: {dimension(4, filters)} shared dimensions")
assert dimension(4, largest) == 147 - 4 * largest and dimension(4, largest + 1) == 0

# %% [markdown]
# **2. Change the normalisation.** Suppose `patchnet-b` divided the three colours by 0.2, 0.3 and 0.4. How many
# dimensions would it share with `patchnet` then? Would the image from above still collide in it? And what if it
# divided all three by the same number as before, times two?

# %% jupyter={"source_hidden": true}
weight = weights.first_weight(networks["patchnet-b"]).matrix[0]
before = shared["patchnet", "patchnet-b"]
other = weight / torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64).repeat_interleave(49)
residual = float((other @ before).norm() / other.norm())
print(f"shared dimensions: {nullspace.shared_null_space(W['patchnet'], other).shape[1]}; what collided is now seen at "
      f"{residual:.1%} of the weight's norm")
# The spaces move, their number of dimensions does not. A common factor moves nothing.
assert nullspace.shared_null_space(W["patchnet"], other).shape[1] == 19 and residual > 1e-3
assert float((W["patchnet-b"] / 2 @ before).norm()) < 1e-12

# %% [markdown]
# **3. Fool the robust one too.** Build an image that collides in `patchnet` and `patchnet-l2`. Does `patchnet-b`
# notice? What is the smallest number of images, made from one photograph, with which each of the three networks is
# fooled?

# %% jupyter={"source_hidden": true}
image = searches["patchnet"].collide(cat, inside(shared["patchnet", "patchnet-l2"]), 2048)
for name, network in networks.items():
    print(f"{name}: {compare(network, cat, image).verdict}")
# Two images: this one, and one from patchnet-b's own null space. One image would have to be in all three.
collides = [compare(network, cat, image).collides_from for network in networks.values()]
assert collides == ["conv1", None, "conv1"]

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
# Two networks, trained from different random numbers, share not one basis vector of their null spaces. Still there is one
# image of colour noise that *both* take for the same cat, down to rounding. With a little help from ReLU, even three do.
#
# **What you will do**
# - compare the null spaces of three networks, first vector by vector, then as spaces;
# - build one image that collides in two networks at once;
# - fail with three at the first layer, and succeed behind it.
#
# **What you will learn**
# - why a list of basis vectors is the wrong thing to compare, and what principal angles are;
# - how to count shared dimensions before you compute anything;
# - that a collision may begin after a ReLU, where no first layer allows it.
#
# **What you need**: [notebook 02](02_search_a_null_space.ipynb); singular values. No GPU, no internet.
#
# `names` may be any three shipped networks whose windows are alike and do not overlap: the `patchnet`s.

# %%
from itertools import combinations

import torch

from collide_utils import claims, counting, images, models, nullspace, windows
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import charts, drawings, exercises, pictures

# %%
names = ["patchnet", "patchnet-b", "patchnet-l2"]
networks = {name: models.load(name, dtype=torch.float64) for name in names}
searches = {name: NullSpaceSearch(network) for name, network in networks.items()}
W = {name: search.weight for name, search in searches.items()}
pairs, first = list(combinations(names, 2)), searches[names[0]]
cat, generator = images.load("chelsea"), torch.Generator().manual_seed(0)

# %% [markdown]
# ## The claim
#
# Section 2.2 of the supplement asks whether one perturbation could serve several models. It compares the basis vectors of
# the ResNets' first weights, whose windows are alike, and finds all of them unique. From that it concludes that colliding
# data points must be made for each model on its own and cannot be transferred.
#
# The first half is an observation, the second a conclusion. We test each. `patchnet` and `patchnet-b` differ in their
# random numbers; `patchnet-l2` was trained on adversarial images and stands in for the "secure" models.

# %% [markdown]
# ## Compare vector by vector
#
# Two unit vectors are the same, up to sign, when the absolute value of their cosine is 1. We take the largest over all
# pairs of basis vectors. The last line does the same for two bases of *one* network: its own, and that basis turned by a
# random orthogonal matrix, which spans the same space.

# %%
V = {name: search.basis for name, search in searches.items()}
turn = torch.linalg.qr(torch.randn(V[names[0]].shape[1], V[names[0]].shape[1], generator=generator).double())[0]
turned = V[names[0]] @ turn
cosine = {pair: float((V[pair[0]].T @ V[pair[1]]).abs().max()) for pair in pairs}
own = float((V[names[0]].T @ turned).abs().max())
for (a, b), value in cosine.items():
    print(f"{a} and {b}: largest |cosine| {value:.1f}")
print(f"{names[0]} and itself, turned: {own:.1f}")

# %% [markdown]
# No two networks share a vector; so far the supplement is right. But by this measure `patchnet` shares nothing with
# `patchnet` either. The singular value decomposition had to return *some* basis of a space in which every direction is as
# good as any other. Which one is an accident of the library. What belongs to the network is the space.

# %%
print(claims.check("basis-vectors-unique", largest_cosine=max(cosine.values()), own_cosine=own))

# %% [markdown]
# ## Compare the spaces
#
# How do spaces meet? In three dimensions two planes through the origin always share a line. A third plane leaves a point.

# %%
drawings.meeting_spaces(
    alt="Left, two planes through the origin cross in a line. Right, a third plane crosses them, and all three share nothing "
        "but the origin.")

# %% [markdown]
# It is the same with null spaces; one only has to count. A vector that two networks map to zero satisfies the equations of
# both, 64 + 64 of them, in 147 unknowns. At least $147 - 2 \cdot 64 = 19$ dimensions must be left. Three networks make 192
# equations, more than there are unknowns. The numbers are those of a 7×7 window and 64 filters; other stems have others.

# %%
shared = {some: nullspace.shared_null_space(*(W[name] for name in some)) for some in [*pairs, tuple(names)]}
for some, basis in shared.items():
    print(f"{', '.join(some)}: {basis.shape[1]} shared dimensions")

# %% [markdown]
# The *principal angles* say more. The first is the smallest angle between a vector of one space and a vector of the other,
# the next the smallest among what is orthogonal to those, and so on. No choice of basis changes them. An angle of zero is a
# shared dimension. The grey band shows what 100 pairs of random weights of the same shape have.

# %%
def random_angles():
    a, b = torch.randn(2, *W[names[0]].shape, generator=generator).double()
    return nullspace.principal_angles(nullspace.null_space(a), nullspace.null_space(b)).rad2deg()


angles = {pair: nullspace.principal_angles(V[pair[0]], V[pair[1]]).rad2deg() for pair in pairs}
chance = torch.stack([random_angles() for _ in range(100)])
charts.against_band(
    {" and ".join(pair): values.tolist() for pair, values in angles.items()},
    ("100 pairs of random weights", chance.amin(0), chance.amax(0)),
    "Principal angles between null spaces", "number of the angle", "angle (degrees)",
    alt="Principal angles in rising order for three pairs of trained networks, over a grey band of random pairs. The first "
        "nineteen are zero for all. Then the trained lines rise from near zero and stay below the band for long.")

# %% [markdown]
# The trained lines run below the band: training brought the null spaces closer than chance. All three networks learned to
# look at slow changes from pixel to pixel, since that is what photographs are made of. What two networks both look at is in
# neither null space, so the rest has less room to differ.

# %% [markdown]
# ## Build one image for two networks
#
# Draw white noise, project each window onto the shared space, scale it to norm 1, and put the windows together.

# %%
noise = torch.randn(*first.geometry.grid, W[names[0]].shape[1], generator=generator).double()


def inside(basis):
    projected = noise @ basis @ basis.T
    return windows.tile(first.geometry, projected / projected.norm(dim=-1, keepdim=True))


def said(y, *of):
    return "\n".join(f"{name}: {compare(networks[name], cat, y).said[1]}" for name in of)


two = inside(shared[pairs[0]])
shown = {beta: first.collide(cat, two, beta) for beta in (0, 512, 8192)}
pictures.images(
    [pictures.perturbation(two[:, :28, :28]), *shown.values()],
    ["the perturbation\n(4×4 of its windows)\n", *(f"β = {beta}\n{said(y, *pairs[0])}" for beta, y in shown.items())],
    alt="Four pictures: sixteen windows of fine colour noise; a photograph of a cat; the same with grain; and colour noise. "
        "Above the last three, two networks say the same of all of them.")

# %% [markdown]
# The words are what the networks say of the *numbers*. The screen clips them, and a clipped picture is another image: of
# the last one, as shown, they say

# %%
print(said(shown[8192].clamp(0, 1), *pairs[0]))

# %% [markdown]
# For the pair to be exact, every photograph and every β must agree with rounding. Beside it the
# supplement's question: does a perturbation made for the first network alone transfer to the second?

# %%
def changes(model, v, betas, layer=first.layer.name):
    photographs = [images.load(photograph) for photograph in images.names()]
    pairs_ = ((x, first.collide(x, v, beta)) for x in photographs for beta in betas)
    return [compare(networks[model], x, y).changes[layer] for x, y in pairs_]


both = [change for name in pairs[0] for change in changes(name, two, [8, 512, 8192])]
alone = changes(names[1], inside(V[names[0]]), [512])
print(f"made for both: {len(both)} changes after the first layer, all below 1e-10: {max(both) < 1e-10}")
print(f"made for {names[0]}, given to {names[1]}, β = 512: the smallest change is {min(alone):.0%}")

# %% [markdown]
# An image made for one network does not transfer. An image made for two does not need to.

# %% [markdown]
# ## Try it with three
#
# At the first layer there is no vector for three. We can still ask for the one that they notice least, by the plain stack
# of their weights, each divided by its norm.

# %%
stack = torch.cat([W[name] / torch.linalg.matrix_norm(W[name]) for name in names])
quietest = inside(torch.linalg.svd(stack).Vh[-1:].T)
for label, v in (("quietest for three", quietest), ("white noise", inside(torch.eye(stack.shape[1]).double()))):
    print(f"{label:<19} change at β = 512:", ", ".join(f"{min(changes(name, v, [512])):.1%}" for name in names))

# %% [markdown]
# Quiet, but not silent: nothing here is rounding. Now look one step further. After the first layer come a batch
# normalisation and a ReLU, and ReLU forgets every negative number. A window only has to keep the outputs that are
# *active* on the photograph; a silent output may change as long as it stays silent. So we count again.

# %%
after = "relu"
active = sum(counting.active_outputs(network, after, cat) for network in networks.values()) / first.geometry.grid[0] ** 2
print(f"active outputs of the three networks: {active:.0f} of {stack.shape[0]} in a mean window")

# %% [markdown]
# Fewer equations than unknowns, and beside them an inequality for each silent output. How much is that worth? Ask first for one
# network, and for the valid image nearest to another photograph: `toward` solves that in each window, behind whichever layer we
# name.

# %%
coffee = images.load("coffee")
for layer in (first.layer.name, after):
    near = first.toward(cat, coffee, layer)
    result = compare(networks[names[0]], cat, near)
    left = float((near - coffee).norm() / (cat - coffee).norm())
    print(f"{names[0]}, equal from {result.collides_from} on: {left:.1%} of the distance to the coffee is left")

# %% [markdown]
# For three networks take directions that no active output sees and along which no silent one rises. They can be followed
# without end, whatever β is. Together they form a cone in each window, and `random` draws from it: white noise, projected on
# the cone. In some windows the cone is a point. These stay as they are.

# %%
joint = first.join(*(searches[name] for name in names[1:]))
v = joint.random(generator, cat, after)
moved = windows.unfold(first.geometry, v).norm(dim=-1) > 0
three = {beta: joint.collide(cat, v, beta) for beta in (8, 512, 8192)}
results = {name: [compare(network, cat, y) for y in three.values()] for name, network in networks.items()}
print(f"windows that may change: {moved.double().mean():.0%}")
print(*(f"{name}: {found[-1].verdict}" for name, found in results.items()), sep="\n")

# %%
pictures.images(
    [cat, three[512], three[8192]], ["the photograph\n\n", *(f"β = {beta}\n{said(three[beta], *names)}" for beta in (512, 8192))],
    width=2.9,
    alt="A photograph of a cat; the same with grain in some of its windows; the same with these windows full of colour noise. "
        "Above the last two, what each of three networks says of the numbers: the same both times.")
print("of the last picture as shown:", said(three[8192].clamp(0, 1), *names), sep="\n")

# %%
behind = max(result.changes[after] for found in results.values() for result in found)
print(claims.check("collisions-do-not-transfer", made_for_one=min(alone), made_for_two=max(both), made_for_three=behind))

# %% [markdown]
# One image and three networks with one mind, though at their first layer each of them notices. Where a collision begins
# matters more than whether the first layer allows it: [notebook 10](10_walk_along_a_level_set.ipynb) makes a method of it.

# %% [markdown]
# ## Limits
#
# - The images for two and for three leave $[0, 1]$ as β grows. Those of `toward` do not, and stay nearer to the photograph.
# - Windows of different sizes cannot be compared one by one, but equations can be counted over the whole image.
# - Three small networks are no population. What training adds to chance we measured on them alone.

# %% [markdown]
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Make room for four.** How many filters may each of four networks have at most, so that one image collides in all of
# them at the first layer, whatever their weights are? The windows have 147 numbers.

# %%
answer = ...
check = exercises.checker(lambda filters: 4 * filters < 147 <= 4 * (filters + 1))
check(answer)

# %% jupyter={"source_hidden": true}
# Four networks of r filters make 4r equations in 147 unknowns; something is left while 4r < 147, so r = 36.
check(36)

# %% [markdown]
# **2. Change the normalisation.** Suppose that `patchnet-b` divided the three colours by 0.2, 0.3 and 0.4 before its first
# layer. How many dimensions would its null space share with that of `patchnet`?

# %%
answer = ...
W_a, W_b = (NullSpaceSearch(models.load(name)).weight for name in ("patchnet", "patchnet-b"))
other = W_b / torch.tensor([0.2, 0.3, 0.4], dtype=torch.float64).repeat_interleave(49)
check = exercises.checker(lambda dimension: dimension == nullspace.shared_null_space(W_a, other).shape[1])
check(answer)

# %% jupyter={"source_hidden": true}
# Still 19. The null space moves, so the old image collides no more, but the count of equations is the same.
check(19)

# %% [markdown]
# **3. Fool the robust one too.** With how many images, made from one photograph at the first layer, can each of the three
# networks be fooled by at least one?

# %%
answer = ...
check = exercises.checker(lambda count: count == 2)
check(answer)

# %% jupyter={"source_hidden": true}
# Two: one for a pair of networks, one for the third. A single one would have to be in all three null spaces.
check(2)

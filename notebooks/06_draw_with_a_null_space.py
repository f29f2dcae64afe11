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
# # Draw with a null space
#
# A null space is not only noise. It is a palette. In this notebook you draw with it, over the photograph of a cat:
# patterns, a portrait, a flower in colour. The network does not notice. Then you turn the question round and ask what
# the network *does* see of these pictures. The answer is the cat, even where no person would find it.
#
# **What you will do**
# - rebuild Figure 3 of the supplement with chosen basis vectors;
# - draw in light and dark, and in colour;
# - project pictures on what the network sees, and find the cat in noise.
#
# **What you will learn**
# - why a drawing is harder to hide than noise;
# - what colliding images have in common, as a picture.
#
# **What you need**: notebooks 02 and 05.
#
# The drawings collide where windows do not overlap: here on `patchnet`, `patchnet-b` and `patchnet-l2`.

# %%
import warnings

import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from collide_utils import claims, images, models, windows
from collide_utils.comparison import Reference, compare
from collide_utils.search import NullSpaceSearch, OverlapWarning
from collide_utils.show import drawings, exercises, pictures

network = "patchnet"

# %%
model = models.load(network, dtype=torch.float64)
search = NullSpaceSearch(model)
V, geometry, stem = search.basis, search.geometry, search.layer.name
assert not geometry.overlapping, f"the windows of {network} overlap, so its drawings would not collide"
photographs = {name: images.load(name, size=model.input_size).double() for name in images.names()}
cat = photographs["chelsea"]

# %% [markdown]
# ## The claim
#
# Section 2.3 of the supplement: besides random mosaics one can "repeat and create perturbations with distinct visual
# properties". Figure 3 shows perturbations made from "the repetition of certain basis vectors". They are said to
# collide like the others.
#
# ## Choose a vector for each window
#
# A drawing is a table of numbers: which basis vector goes in which window. Every entry may be any vector, or its
# negative, or a mixture, because a null space is closed under all of that. Here are four tables, as shades of grey,
# with what they make: four perturbations and four pictures of a cat.

# %%
rows, columns = torch.meshgrid(*map(torch.arange, geometry.grid), indexing="ij")
tables = {"one vector": 0 * rows + 24, "two, in stripes": torch.where((rows + columns) // 4 % 2 == 1, 24, 59),
          "one for each column": columns % 34, "one for each diagonal": (rows + columns) % 34}
patterns = {name: search.mosaic(table) for name, table in tables.items()}


def told(y):
    """Say what the network makes of an image, and of the picture of it, which is clipped to [0, 1]."""
    fed, shown = (compare(model, cat, image).said[1] for image in (y, y.clamp(0, 1)))
    return f"numbers: {fed}\nas shown: {shown}"


# %%
patterned = [search.collide(cat, v, 2048) for v in patterns.values()]
pictures.images(
    [table.expand(3, -1, -1) / 60 for table in tables.values()]
    + [x[:, :112, :112] for x in [*((0.5 + v).clamp(0, 1) for v in patterns.values()), *patterned]],
    [*tables, *["perturbation, 16×16 windows"] * 4, *(f"β = 2048, one quarter\n{told(y)}" for y in patterned)], width=2.1,
    alt="Four tables in grey: even, stripes, columns, diagonals. Perturbations: rows of dots, stripes of them, columns, "
        "diagonals. A quarter of the cat under each, still plain to see, with what the network says.")

# %% [markdown]
# As in the supplement's Figure 3, each perturbation repeats certain basis vectors. The patterns and the weights are
# ours: we know neither which vectors the authors chose nor how they laid them out. Under each cat stand two answers.
# The network was *given numbers*, many of them outside [0, 1], and to them it always says the same. The *picture*
# clips them, and that is another image. Given the picture, the network may say anything.
#
# ## Draw in light and dark
#
# The eye sees brightness best. The flat white window $w$ is not in the null space, but its projection $V V^\top w$
# is. Scaled to norm 1 it is $b$, the brightest vector of the null space. We give each window a multiple of $b$.

# %%
white = torch.full((len(V),), len(V) ** -0.5, dtype=V.dtype)
bright = F.normalize(V @ (V.T @ white), dim=0)
print(f"cosine of b with the white window: {bright @ white:.2f}")
centre = (torch.tensor(geometry.grid) - 1) / 2
rings = 2.0 * (torch.hypot(rows - centre[0], columns - centre[1]) // 3 % 2) - 1
tones = images.load("astronaut", size=len(rows)).double().mean(0)
tones = (tones - tones.median()) / (tones - tones.median()).abs().max()
drawn = {f"{name}, β = {beta}": search.collide(cat, windows.tile(geometry, tone[:, :, None] * bright), beta)
         for name, tone, beta in (("rings", rings, 2048), ("a portrait", tones, 8192))}

# %%
pictures.images(
    [x for y in drawn.values() for x in (y, images.from_afar(y, geometry.window))],
    [title for name, y in drawn.items() for title in (f"{name}\n{told(y)}", "from afar, as shown")], width=2.1,
    alt="The cat under rings, and the same from afar: rings with the eyes of a cat. The cat under the portrait of an "
        "astronaut, and the same from afar: a face with an eye of the cat.")

# %% [markdown]
# The cosine says why this takes so large a β. Little of $b$ is bright: the network watches brightness closely, and
# leaves almost none of it to the null space. From afar every window is one mixed colour.
#
# ## Draw in colour
#
# Weak as they are, the flat colours of the null space have three dimensions. So it holds a vector of *any* mean colour,
# and the pseudoinverse finds the shortest. We ask each window for the way from its mean in the cat to that in a flower.

# %%
mean_colour = V.view(3, -1, V.shape[1]).mean(1)
flower = images.load("flower", size=len(rows)).double()
goal = flower - F.avg_pool2d(cat, geometry.window)
paint = (V @ torch.linalg.pinv(mean_colour) @ goal.flatten(1)).T.view(*geometry.grid, -1)
flower_cat = search.collide(cat, windows.tile(geometry, paint), 255)
means = F.avg_pool2d(flower_cat, geometry.window)
print("the window means are the flower, to 1e-9:", torch.allclose(means, flower, atol=1e-9))
print(f"length of a window's change: {255 * paint.norm(dim=2).median():.0f} grey levels (median)")
pictures.images(
    [flower_cat, images.from_afar(flower_cat, geometry.window), means],
    [told(flower_cat), "from afar, as shown", "means of the numbers"], columns=3, width=2.1,
    alt="A field of glaring dots; the same from afar, a pale flower; the means of the numbers, a flower in full colour.")

# %% [markdown]
# The numbers hold the flower exactly. The picture, clipped, keeps little of it.
#
# ## See what the network sees
#
# Now the other way round. Every window is a sum of two: what the network sees of it, and the rest, which lies in the
# null space. If $V$ is the basis, the rest of window $w$ is $V V^\top w$, and what the network sees is
# $w - V V^\top w$. A perturbation from the null space changes the rest alone. (The rest has both signs; the drawing
# shows zero as grey.)

# %%
generator = torch.Generator().manual_seed(0)
noisy = search.collide(cat, search.random(generator), 8192)
corner = [10 * n for n in geometry.window]
split = [x[:, corner[0]:corner[0] + geometry.window[0], corner[1]:corner[1] + geometry.window[1]]
         for image in (cat, noisy) for x in (image, search.seen(image), image - search.seen(image) + 0.5)]
drawings.sums(split, ["photograph", "mosaic added, β = 8192"],
              alt="Two windows as sums. That of the photograph is a seen part plus a pale rest. That with the mosaic is the "
                  "same seen part plus a rest of glaring colours.")

# %% [markdown]
# So take the cat in a mosaic at β = 8192. As shown, it is colour noise. Project every window of the numbers on what the
# network sees. Or step back: blur the picture as it is shown, and look at its brightness. White noise of the same size
# stands beside it.

# %%
def blurred(image, sigma=5):
    """Return the brightness of a picture, as it is shown, after a blur of `sigma` pixels."""
    return torch.from_numpy(gaussian_filter(image.clamp(0, 1).mean(0).numpy(), sigma))


def stretched(brightness):
    return ((brightness - brightness.min()) / (brightness.max() - brightness.min())).expand(3, -1, -1)


white_noise = cat + 8192 / 255 * torch.randn(cat.shape, generator=generator, dtype=cat.dtype) / len(V) ** 0.5
pictures.images(
    [cat, noisy, search.seen(noisy), *(stretched(blurred(x)) for x in (cat, noisy, white_noise))],
    ["photograph", f"mosaic at β = 8192\n{told(noisy)}", "what the network sees of it", "photograph, blurred",
     "mosaic, blurred", "white noise, blurred"], columns=3, width=2.1,
    alt="The cat; the cat in a mosaic, colour noise in which nobody finds it; that noise projected on what the network "
        "sees, the cat again with a fine grain. Below, in grey and blurred, the cat; the mosaic, in which eyes and nose "
        "of the cat show; and white noise, in which they show less.")

# %% [markdown]
# There it is. Nobody took the cat away: the noise was laid over it, in directions in which photographs have little.
# The projection of the noise *is* that of the photograph, to rounding. And blurring finds the cat because the null
# space of a trained network has almost no slow waves, which
# [notebook 05](05_look_at_the_null_space.ipynb) showed. White noise has all waves, and covers more.

# %%
print(f"{'':<18}blurred like the photograph: mosaic  white noise   seen: energy  difference")
found = {}
for name, x in photographs.items():
    mosaic = search.random(generator)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype) / len(V) ** 0.5
    covers = [torch.stack([blurred(x), blurred(x + 8192 / 255 * v)]).flatten(1) for v in (mosaic, noise)]
    seen, again = search.seen(x), search.seen(search.collide(x, mosaic, 8192))
    found[name] = *(float(torch.corrcoef(pair)[0, 1]) for pair in covers), float((seen - again).norm() / seen.norm())
    print(f"{name:<18}{found[name][0]:>35.2f}{found[name][1]:>13.2f}"
          f"{seen.square().sum() / x.square().sum():>15.1%}  {'rounding' if found[name][2] < 1e-12 else 'no'}")

# %% [markdown]
# For every photograph the mosaic leaves more than white noise of the same size does. On some, white noise leaves much
# too: blurring is good at finding large shapes. The last column needs no eye. Whatever we added, the network sees the
# photograph. The [next notebook](07_turn_up_beta.ipynb) shows this picture beside the β slider, and
# [notebook 08](08_explain_two_images.ipynb) meets it again: a map of what the network used cannot show what it never saw.
#
# ## The verdict
#
# Every pattern on every photograph, and the first two patterns on `stridenet`, whose windows overlap.

# %%
def stem_changes(model, search, x, patterns, betas):
    reference = Reference(model, x)
    return [reference.compare(search.collide(x, v, beta)).changes[search.layer.name] for v in patterns for beta in betas]


apart = [change for x in photographs.values()
         for change in stem_changes(model, search, x, patterns.values(), (8, 8192))]
warnings.simplefilter("ignore", OverlapWarning)  # that is the point
stride_model = models.load("stridenet", dtype=torch.float64)
stride_search = NullSpaceSearch(stride_model)
overlapping = stem_changes(stride_model, stride_search, cat, map(stride_search.mosaic, tables.values()), [512])
print(claims.check("pattern-collides", separate_windows=max(apart), overlapping_windows=min(overlapping),
                   still_there=min(mosaic - noise for mosaic, noise, _ in found.values()),
                   seen=max(difference for *_, difference in found.values())))

# %% [markdown]
# ## Limits
#
# - A blur of 5 pixels and a correlation of brightness stand in for a person who steps back.
# - The projection needs the weights. Without them, blurring is what a reader can do.
#
# ## Exercises
#
# Put your answer in place of the dots and run the cell. The solution is folded below it.
#
# **1. Hide from the printer.** A printer makes grey of 0.299 red, 0.587 green and 0.114 blue. Rings are to vanish on
# paper and to show on a screen. Which mean colour (red, green, blue) should the vector have that replaces $b$?

# %%
answer = ...
grey = torch.tensor([0.299, 0.587, 0.114])
check = exercises.checker(lambda colour: abs(grey @ torch.tensor(colour)) < 1e-4 < torch.tensor(colour).abs().max())
check(answer)

# %% jupyter={"source_hidden": true}
# Any but black of which grey is zero: more red, less blue. Its vector is V @ torch.linalg.pinv(mean_colour) @ colour.
check([0.114, 0.0, -0.299])

# %% [markdown]
# **2. Look at noise.** What share of the energy of white noise does a network see whose first weight is 64×147?

# %%
answer = ...
check = exercises.checker(lambda share: abs(share - 64 / 147) < 0.005)
check(answer)

# %% jupyter={"source_hidden": true}
# White noise has the same energy in every direction, and the network sees 64 of 147: 44 %. Of photographs, nearly all.
check(64 / 147)

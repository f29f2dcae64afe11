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
# # Start here
#
# Two pictures that no one would confuse, one trained network, and the same features: not similar ones, the same, down to
# the last bits that the arithmetic can hold. This course takes such *feature collisions* apart. It follows the
# supplementary material of *Exact Feature Collisions in Neural Networks* (Ozbulak et al.), recomputes its lemma, its
# table and its five figures, and tests every claim that it makes.

# %%
from itertools import groupby
from pathlib import Path

import nbformat
import torch
from IPython.display import Markdown

from collide_utils import claims, images, models
from collide_utils.comparison import compare
from collide_utils.search import NullSpaceSearch
from collide_utils.show import pictures

model = models.load("patchnet", dtype=torch.float64)
cat = images.load("chelsea")
search = NullSpaceSearch(model)
shown = [search.collide(cat, search.random(torch.Generator().manual_seed(0)), beta) for beta in (0, 512, 2048, 8192)]
results = [compare(model, cat, picture) for picture in shown]
pictures.images(
    shown, [f"{r.predictions[1]}, p = {r.probabilities[1]:.6f}" for r in results],
    alt="Four pictures: a photograph of a cat, the same under coloured noise, under so much of it that the cat can just be "
        "made out, and nothing but noise. Above each the same prediction with the same probability to six digits.")

# %%
results[-1]

# %% [markdown]
# The network computes the same for all four, from its first layer on. Nobody searched for an adversarial example here; a
# matrix with more columns than rows has a null space, and that is all.
#
# ## The notebooks
#
# | | question | in the supplement | first read |
# |---|---|---|---|
# | [01](01_watch_the_smallest_eigenvalue.ipynb) | Does the smallest eigenvalue of a random matrix vanish as it grows? | Section 1, Lemma 1 | |
# | [02](02_search_a_null_space.ipynb) | How do two photographs get the same features? | Section 2.3, Figures 1, 2 and 4 | |
# | [03](03_count_null_spaces.ipynb) | How many weights have a null space, and who gave it to them? | Section 2.1, Table 1 | |
# | [04](05_look_at_the_null_space.ipynb) | What does a null space look like? | Section 2.3, Figures 1 to 3 | 02 |
# | [05](07_turn_up_beta.ipynb) | How far can an image be changed, and can a file hold the result? | Section 2.3, Figure 4 | 02 |
# | [06](08_explain_two_images.ipynb) | What do explanations say about two images with the same features? | Section 2.3, Figure 5 | 02 |
# | [07](09_mind_the_overlap.ipynb) | What becomes of the recipe where windows overlap? | Section 2.3, not discussed there | 02 |
# | [08](11_fool_two_networks.ipynb) | Can one image collide in two networks? | Section 2.2 | 02 |
#
# With little time, read 02 and then the one whose question you came with. All of them run on a laptop without a network:
# the trained networks are part of the course, the photographs come with scikit-image and scikit-learn. How long each
# takes to run, measured when it was last saved on two processor cores:

# %%
for path in sorted(Path().glob("0[1-9]*.ipynb")):
    half_minutes = -(-nbformat.read(path, as_version=4).metadata["seconds"] // 30)
    print(f"{path.stem:<40} under {30 * half_minutes} seconds")

# %% [markdown]
# ## The ledger
#
# Every claim that the course tests, with what became of it. A link leads to the section that decides it. The notebooks
# compare what they measure with this ledger, `data/claims.toml`, and fail when a verdict differs or a number leaves the
# bounds of its evidence.

# %%
ledger = claims.ledger()
lines = []
for notebook, names in groupby(ledger, key=lambda name: ledger[name]["notebook"]):
    lines += ["", f"**Notebook {notebook[:2]}**", "", "| claim | supplement | evidence | verdict |", "|---|---|---|---|"]
    for name in names:
        entry, link = ledger[name], f"{notebook}.ipynb#{claims.section(name).replace(' ', '-')}"
        evidence = "<br>".join(f"{e['what']}: " + " and ".join(f"{sign} {e[word]:g}" for word, sign in (
            ("at_least", "≥"), ("at_most", "≤")) if word in e) for e in entry["evidence"].values())
        cells = [entry["claim"], entry["supplement"], evidence, f"[{entry['verdict']}]({link})"]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
Markdown("\n".join(lines))

# %%
verdicts = [entry["verdict"] for entry in ledger.values()]
conditional = sum(verdict.startswith("holds if") for verdict in verdicts)
print(f"{len(verdicts)} claims: {verdicts.count('holds')} hold, {conditional} hold under a condition, "
      f"{verdicts.count('fails')} fail")

# %% [markdown]
# Most claims hold once a condition is added that the supplement does not state. One condition comes back again and again:
# *if windows do not overlap*. It is the first thing to check before the recipe is used on a network of your own.
#
# ## How to read a notebook
#
# Each opens with what you will do, learn and need; states the claim; tests it with as little code as will do; draws the
# picture; and ends in a verdict, its limits, and exercises whose solutions are folded. The mathematics is in the
# cells, and what would distract is in the small module `collide_utils`. A network is one name at the top of a notebook:
# change it and run again.
#
# Words that mean one thing throughout: a *weight* is a matrix, its *null space* the vectors that it maps to zero, the
# *nullity* the dimension of that space. A *window* is the part of the image that a convolution sees at once. Two images
# *collide* at a layer when its output is the same for both. β counts 8-bit grey levels: by how much each window changes.

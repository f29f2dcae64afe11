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
# Two photographs that no one would confuse, one trained network, and the same answer: not a similar one, the same, down to
# the last bits that the arithmetic can hold. This course takes such *feature collisions* apart. It follows the supplement of
# *Exact Feature Collisions in Neural Networks* (Ozbulak et al.), recomputes its lemma, its table and its five figures, and
# tests every claim that it makes.

# %%
from itertools import groupby

from IPython.display import Image, Markdown

from collide_utils import claims

Image("../data/collision.png", alt="Two photographs: a cat, and a cup of coffee in which no one would see a cat. Above "
      "both, the network says cat with the same probability.")

# %% [markdown]
# Both are valid images, with every number in $[0, 1]$. [Notebook 10](10_walk_along_a_level_set.ipynb) makes the second from
# the first and checks it. Behind it stands no trick of training. A network has fewer features than an image has numbers, so
# many images must share their features; the course shows how to find them.

# %% [markdown]
# ## Words that you will meet
#
# - A *weight* is a matrix: one row for each output of a layer, one column for each number that the output looks at.
# - Its *null space* holds the vectors that it maps to zero. The *nullity* is the dimension of that space.
# - A *window* is the part of an image that a convolution sees at once. The *stem* is the first convolution.
# - Two images *collide* at a layer when its output is the same for both.
# - β counts 8-bit grey levels: by how much each window changes, as the length of a vector.

# %% [markdown]
# ## Find your way
#
# | | question | in the supplement | read first |
# |---|---|---|---|
# | [01](01_watch_the_smallest_eigenvalue.ipynb) | Does the smallest eigenvalue of a random matrix vanish as it grows? | Section 1, Lemma 1 | |
# | [02](02_search_a_null_space.ipynb) | How do two photographs get the same features? | Section 2.3, Figures 1, 2, 4 | |
# | [03](03_count_null_spaces.ipynb) | How many weights have a null space? | Section 2.1, Table 1 | |
# | [04](04_see_what_training_adds.ipynb) | What does training add to it? | Section 2.1, Table 1 | 03 |
# | [05](05_look_at_the_null_space.ipynb) | Whose pictures are the basis vectors? | Section 2.3, Figures 1, 2 | 02 |
# | [06](06_draw_with_a_null_space.ipynb) | What can be drawn with a null space, and what does the network see of it? | Section 2.3, Figure 3 | 02 |
# | [07](07_turn_up_beta.ipynb) | How far can an image be changed, and can a file hold the result? | Section 2.3, Figure 4 | 02 |
# | [08](08_explain_two_images.ipynb) | What do explanations say of two images with the same features? | Section 2.3, Figure 5 | 02 |
# | [09](09_mind_the_overlap.ipynb) | What becomes of the recipe where windows overlap? | not discussed | 02 |
# | [10](10_walk_along_a_level_set.ipynb) | Do two images collide in a ResNet all the same? | not discussed | 09 |
# | [11](11_fool_two_networks.ipynb) | Can one image collide in two networks? | Section 2.2 | 02 |
# | [12](12_collide_in_any_task.ipynb) | Does it matter what the network is for? | not discussed | 02 |
#
# With little time, read 02 and then the one whose question you came with. Each takes about fifteen minutes. All run on a
# laptop without internet: the trained networks are part of the course, and the photographs come with scikit-image and
# scikit-learn.
#
# Every notebook opens with what you will do, learn and need. It states the claim, draws the idea, tests the claim with as
# little code as will do, and ends in limits and exercises. Solutions are folded. The network is one name at the top: change
# it and run again.

# %% [markdown]
# ## Read the ledger
#
# These are the claims that the course tests. *As stated* is what becomes of a claim for all the networks that the supplement
# speaks of: one counterexample makes it fail. Below the claim stands the strongest form of it that we can support. The
# numbers are those that the notebook measured when it was last saved, each with the bound that it must keep. A notebook
# fails when a number leaves its bound, and nothing but the bounds decides.

# %%
def short(value):
    return f"{value:,.0f}" if value == int(value) else f"{value:.2g}"


def evidence(name, entry):
    found = claims.measured()
    return "<br>".join(
        f"{number['what']}: **{short(found[name, key])}** ("
        + ", ".join(f"{sign} {number[word]:g}" for word, sign in (("at_least", "≥"), ("at_most", "≤")) if word in number) + ")"
        for key, number in entry["evidence"].items())


def row(name, entry):
    link = f"{entry['notebook']}.ipynb#{claims.section(name).replace(' ', '-')}"
    cells = [f"{entry['claim']}<br>*{entry['repaired']}*", entry["supplement"], f"[{entry['as_stated']}]({link})",
             evidence(name, entry)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


# %%
lines, ledger = [], claims.ledger()
for notebook, names in groupby(ledger, key=lambda name: ledger[name]["notebook"]):
    lines += ["", f"**Notebook {notebook[:2]}**", "", "| claim, and what is true | supplement | as stated | measured |",
              "|---|---|---|---|", *(row(name, ledger[name]) for name in names)]
Markdown("\n".join(lines))

# %%
print(claims.summary())

# %% [markdown]
# Most failures have one cause. A null vector of a weight is a collision of its layer only *if windows do not overlap*, and
# in the networks that the supplement names they do. It is the first thing to check before you try the recipe on a network of
# your own. The second is to look at the picture as shown: where it is clipped, the network was given other numbers.

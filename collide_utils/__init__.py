"""Recompute and test the claims of *Exact Feature Collisions in Neural Networks* (supplementary material).

The rooms, in rows; each imports only from its own row and from those above it:

- what a network is made of: ``weights``, ``hooks``, ``nullspace``
- the first layer: ``windows``, ``projection``, ``search``, ``symbol``
- any layer: ``levelsets``, ``jacobians``
- material: ``models``, ``streets``, ``checkpoints``, ``images``, ``claims``
- measuring: ``answers``, ``comparison``, ``counting``, ``randmat``, ``maps``
- pictures: ``show``
- all of it in one call: ``report``; ``__main__`` is its command line
"""

import importlib

_ROOMS = {"NullSpaceSearch": "search", "compare": "comparison", "record": "hooks", "layer_weights": "weights"}


def __getattr__(name):
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__():
    return sorted([*globals(), *_ROOMS])

import warnings

import pytest
import torch
from hypothesis import settings

from collide_utils import images, models
from collide_utils.search import NullSpaceSearch

settings.register_profile("course", deadline=None)  # how long an example takes says nothing about the mathematics
settings.load_profile("course")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def patchnet():
    return models.load("patchnet", dtype=torch.float64)


@pytest.fixture(scope="session")
def shapes():
    """Every torchvision network by name, without weights, made without a warning: it takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return {name: models.shapes_only(name) for name in models.builders()}


@pytest.fixture(scope="session")
def search(patchnet):
    return NullSpaceSearch(patchnet)


@pytest.fixture(scope="session")
def cat():
    return images.load("chelsea")

import pytest
import torch

from collide_utils import images, models
from collide_utils.search import NullSpaceSearch


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def patchnet():
    return models.load("patchnet", dtype=torch.float64)


@pytest.fixture(scope="session")
def search(patchnet):
    return NullSpaceSearch(patchnet)


@pytest.fixture(scope="session")
def cat():
    return images.load("chelsea")

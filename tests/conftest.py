"""One thread a worker, and hypothesis without deadlines, drawing the same examples in every run."""

import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
torch.set_num_threads(1)
settings.register_profile("dgtoy", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("dgtoy")


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)

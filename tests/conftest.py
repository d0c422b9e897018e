"""One thread a worker, and hypothesis without deadlines, drawing the same examples in every run."""

import functools
import gc

import matplotlib
import pytest
import torch
from hypothesis import settings

gc.disable()  # until all is imported, of which nothing goes
matplotlib.use("Agg")
torch.set_num_threads(1)
settings.register_profile("dgtoy", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("dgtoy")


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


@pytest.fixture
def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def code_read_once():
    """For tests that change no code: what kept results rest on is read once, which takes most of the time of
    an experiment at toy size."""
    from dgtoy.course import cache

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "Code", functools.cache(cache.Code))
        yield

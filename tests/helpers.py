"""What several tests use: mixtures, a denoiser that counts its calls, processes, the form of a refusal."""

import contextlib
import multiprocessing
import os
import socket
import sys

import pytest
import torch

from dgtoy import GaussianMixture, LabelledMixture


def random_parts(k, d, seed, dtype=torch.float64):
    """weights (k,), means (k, d), covs (k, d, d) of full rank, with stds from about 0.3 to 2."""
    g = torch.Generator().manual_seed(seed)
    weights = 0.2 + torch.rand(k, generator=g, dtype=dtype)
    means = 3 * torch.randn(k, d, generator=g, dtype=dtype)
    root = torch.randn(k, d, d, generator=g, dtype=dtype) / d**0.5
    return weights / weights.sum(), means, root @ root.mT + 0.1 * torch.eye(d, dtype=dtype)


def random_mixture(k=4, d=2, seed=0, dtype=torch.float64):
    return GaussianMixture(*random_parts(k, d, seed, dtype))


def random_labelled(k=6, d=2, classes=2, seed=0, dtype=torch.float64):
    return LabelledMixture(*random_parts(k, d, seed, dtype), torch.arange(k) % classes)


def gaussian(mean, std, dtype=torch.float64):
    """N(mean, std^2) in one dimension."""
    return GaussianMixture(
        [1.0], torch.tensor([[mean]], dtype=dtype), torch.tensor([[[std**2]]], dtype=dtype)
    )


def seeded(seed):
    """A generator of random numbers on the CPU."""
    return torch.Generator().manual_seed(seed)


def same_tensors(one, other):
    """Whether two dicts hold the same tensors by the same names, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def shaken(net, seed=0, by=0.1):
    """A module with all its weights moved at random: gates and output, which begin as 0, are open."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.parameters():
        p.data += by * torch.randn(p.shape, generator=generator)
    return net


class Counted:
    """A denoiser that counts its calls."""

    def __init__(self, D):
        self.D, self.calls = D, 0

    def __call__(self, x, sigma):
        self.calls += 1
        return self.D(x, sigma)


# One server imports what takes seconds; a process forked from it starts in a tenth of a second.
HEAVY = ["dgtoy.pipeline.cli", "dgtoy.course.experiments.photos", "torch._dynamo", "accelerate"]
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(HEAVY)


def started(function, *args, **environment):
    """function(*args) in a process of its own: one thread, these environment variables, its output unread."""
    process = FORKS.Process(target=_alone, args=(function, args, environment))
    process.start()
    return process


def _alone(function, args, environment):
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    function(*args)


def together(function, *args, processes=2, **environment):
    """function(*args) in each process of a torch.distributed group, as torchrun would.  -> exit codes"""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    address = dict(MASTER_ADDR="localhost", MASTER_PORT=str(port), WORLD_SIZE=str(processes))
    group = [
        started(function, *args, **address, **environment, RANK=str(k), LOCAL_RANK=str(k))
        for k in range(processes)
    ]
    for process in group:
        process.join(120)
    return [process.exitcode for process in group]


@contextlib.contextmanager
def refuses(*words, error=ValueError):
    """The block raises `error` with a message of one line that holds each of the words."""
    with pytest.raises(error) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message

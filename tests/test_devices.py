"""What `to` does. The meta device, which holds shapes alone, needs no hardware."""

import pytest
import torch
from helpers import random_labelled, random_mixture
from test_dit import awake

from dgtoy.course.worlds import domains
from dgtoy.dit import EDM, VP
from dgtoy.nets import MLP, Ensemble
from dgtoy.train import Points
from dgtoy.vp import Process


@pytest.mark.parametrize(
    "make, weight",
    [
        (lambda: MLP(width=4), lambda net: next(net.parameters())),
        (lambda: Ensemble.of([0], width=4), lambda net: next(iter(net.params.values()))),
        (lambda: EDM(awake()), lambda net: next(net.net.parameters())),
        (lambda: VP(awake()), lambda net: next(net.net.parameters())),
    ],
)
def test_networks_move_in_place(make, weight):
    """As torch's modules: `to` returns the network itself."""
    net = make()
    assert net.to("meta") is net and weight(net).is_meta


@pytest.mark.parametrize(
    "held, table",
    [
        (random_mixture(), lambda m: m.means),
        (random_labelled(), lambda m: m.labels),
        (Points(torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.long)), lambda data: data.x0),
        (Process(), lambda process: process.sigmas),
        (domains.make(), lambda domain: domain.source.means),
    ],
)
def test_data_and_tables_are_copied(held, table):
    """As torch's tensors: `to` returns another one and leaves the first where it is."""
    moved = held.to("meta")
    assert type(moved) is type(held) and table(moved).is_meta and not table(held).is_meta

"""What `to` does. The meta device, which holds shapes alone, needs no hardware."""

import pytest
import torch
from helpers import random_labelled, random_mixture, refuses
from test_dit import awake

from dgtoy import samplers, theory, vp
from dgtoy.course.worlds import domains
from dgtoy.dit import EDM, VP
from dgtoy.dit.network import DiT
from dgtoy.gmm import LabelledMixture
from dgtoy.guidance import blurred, guided
from dgtoy.likelihood import log_likelihood
from dgtoy.metrics import bootstrap, out_of_domain
from dgtoy.nets import MLP, Ensemble
from dgtoy.relatives import cfg_plus_plus, self_consistent
from dgtoy.train import Points, Recipe, fit
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


X = torch.linspace(-1, 1, 12).reshape(6, 2)
WIDE, NARROW = random_mixture(3, dtype=torch.float32), random_labelled(dtype=torch.float32)
D, G, NET = NARROW.denoise, WIDE.denoise, MLP(width=4, num_classes=2)
LEVELS = [5.0, 1.0, 0.2]


def trained():
    net = Ensemble([NET])
    data = Points(X[None], torch.zeros(1, 6, dtype=torch.long, device="cpu"))
    losses = [step.loss for step in fit(net, data, Recipe(steps=2, batch=4))]
    return torch.cat([*losses, net.params["body.0.weight"].detach().flatten()])


def test_points_on_another_device_than_the_mixture_are_refused():
    mixture, x = random_mixture(), X.to("meta")
    with refuses("x is on meta; expected cpu"):
        mixture.denoise(x, 1.0)
    assert mixture.to("meta").denoise(x, 1.0).shape == x.shape


@pytest.mark.parametrize(
    "work",
    [
        lambda: samplers.karras(5, 0.1, 2.0),
        lambda: samplers.exponential(5, 0.1, 2.0),
        lambda: samplers.last(samplers.heun(guided(D, G, 2.0, (0.3, 2)), X, LEVELS)),
        lambda: guided(blurred(D, 0.5), G, [2.0, 1, 0, 1, 2, 3])(X, [1.0, 2, 3, 4, 5, 6]),
        lambda: NARROW.denoiser([0, 1, 0, 1, 2, 2])(X, 1.0),
        lambda: NET.denoiser(1)(X, 2.0),
        lambda: log_likelihood(D, X, LEVELS),
        lambda: cfg_plus_plus(0.5, LEVELS)(1.0),
        lambda: self_consistent(D, G, X, LEVELS, [1.0, 2.0], generator=torch.Generator()).weights,
        lambda: vp.sigma_to_t(1.0) + vp.t_to_sigma(5) + Process([3, 9]).sigmas[0],
        lambda: torch.stack(theory.alignment(NARROW, [0, 1] * 3, 0, 0, X, 1.0)),
        lambda: samplers.check_numbers("ends", theory.gaussian_guidance((0, 1), (0, 2), 1.5)),
        lambda: samplers.check_numbers("ends", bootstrap([1.0, 2.0, 4.0])),
        lambda: out_of_domain(X, WIDE),
        trained,
    ],
)
def test_numbers_stay_numbers_whatever_torch_s_default_device(work):
    """The meta device holds none, so that every one that went there would be missed."""
    expected = work()
    with torch.device("meta"):
        assert torch.equal(work(), expected)


@pytest.mark.parametrize(
    "make", [lambda: MLP(num_classes=2), lambda: DiT(8, 4, 1, 16, 1, 2, 3), lambda: DiT(8, 4).with_classes(3)]
)
def test_a_network_is_made_where_torch_s_default_device_is(make):
    with torch.device("meta"):
        assert {p.is_meta for p in make().parameters()} == {True}


def test_labels_lie_where_their_mixture_does():
    parts = (torch.ones(2) / 2, torch.zeros(2, 2), torch.eye(2).expand(2, 2, 2))
    assert LabelledMixture(*parts, [0, 1]).labels.device == parts[0].device

"""Training on images: `fit` on an EDM, and DogFit, which learns guidance into the network."""

import dataclasses

import pytest
import torch
from helpers import refuses, same_tensors, shaken

from dgtoy import Ensemble, Points, Recipe, fit
from dgtoy.checkpoint import read_safetensors
from dgtoy.course.worlds.glyphs import World
from dgtoy.dit import EDM, DiT
from dgtoy.train import BLOCK, batches, denoising_loss

close = torch.testing.assert_close
SHAPE = (3, 8, 8)
RECIPE = Recipe(
    steps=70, batch=4, lr=3e-3, dropout=0.2, ema=0.9, P_mean=-1.0, P_std=1.4
)  # 70 steps: more than one block
WORLD = World("0A", size=8)


def tiny(seed=0, num_classes=2):
    """A small EDM whose gates and output are no longer 0, so that the guide says something."""
    net = DiT(8, 2, 3, 16, 1, 2, num_classes, learn_sigma=False, seed=seed)
    return EDM(shaken(net, seed), seed=seed)


def trained(net, data=WORLD, recipe=RECIPE, average=None, **how):
    """net after training; the losses, a list of (1,)"""
    return net, [step.loss for step in fit(net, data, recipe, average, **how)]


def weights(net):
    return {k: v.detach().clone() for k, v in net.params.items()}


def guide(x, sigma):
    """What the guides here say: half of x."""
    return x / 2


# what a step sees


def test_noisy_images_are_clean_images_plus_sigma_times_noise():
    x0, label, sigma, x = batches(WORLD, [3], dataclasses.replace(RECIPE, batch=20), 2, 0, SHAPE)
    assert x0.shape == x.shape == (1, BLOCK, 20, *SHAPE) and label.shape == sigma.shape == (1, BLOCK, 20)
    eps = (x - x0) / sigma[..., None, None, None]
    assert abs(eps.mean()) < 0.01 and eps.std().item() == pytest.approx(1, abs=0.01)
    assert sigma.log().mean().item() == pytest.approx(
        -1, abs=0.15
    ) and sigma.log().std().item() == pytest.approx(1.4, abs=0.1)
    assert -1 <= x0.min() and x0.max() <= 1
    together = torch.stack([x0.flatten(), eps.flatten()])
    assert abs(torch.corrcoef(together)[0, 1]) < 0.01


def test_a_seed_s_images_do_not_depend_on_the_other_seeds():
    together, alone = batches(WORLD, [5, 1], RECIPE, 2, 4, SHAPE), batches(WORLD, [1], RECIPE, 2, 4, SHAPE)
    for a, b in zip(together, alone, strict=True):
        close(a[1], b[0], rtol=1e-5, atol=1e-5)
    assert not torch.equal(together[3][0], together[3][1])


def test_a_dimension_is_a_shape_of_one_axis():
    points = Points(torch.randn(1, 9, 2), torch.zeros(1, 9, dtype=torch.long))
    for a, b in zip(
        batches(points, [5], RECIPE, 1, 0, 2), batches(points, [5], RECIPE, 1, 0, (2,)), strict=True
    ):
        assert torch.equal(a, b)


@pytest.mark.parametrize("lead", ((4,), (2, 4)))
def test_the_loss_of_images_is_the_weighted_square_error(lead, rng):
    x0, x0_hat = torch.randn(2, *lead, *SHAPE, generator=rng)
    sigma = torch.rand(lead, generator=rng) + 0.1
    by_hand = (1 / sigma**2 + 4) * (x0_hat - x0).flatten(-3).square().mean(-1)
    close(denoising_loss(x0_hat, x0, sigma, 0.5), by_hand.mean(-1))


@pytest.mark.parametrize("dropout, low, high", [(0.0, 0, 0), (0.2, 0.17, 0.23), (1.0, 1, 1)])
def test_labels_of_images_are_dropped_as_often_as_asked(dropout, low, high):
    _, label, _, _ = batches(WORLD, [3], dataclasses.replace(RECIPE, dropout=dropout, batch=40), 2, 0, SHAPE)
    assert low <= (label == 2).float().mean() <= high


@pytest.mark.parametrize("dropout, still", [(0.0, [2]), (1.0, [0, 1])])
def test_only_the_labels_that_are_seen_learn(dropout, still):
    before, table = weights(tiny()), "y_embedder.embedding_table.weight"
    after = weights(trained(tiny(), recipe=dataclasses.replace(RECIPE, steps=5, dropout=dropout))[0])
    assert [k for k in range(3) if torch.equal(before[table][k], after[table][k])] == still


# the loop


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """Network, averages, losses and checkpoint file of a whole run."""
    net, path = tiny(), tmp_path_factory.mktemp("whole") / "run.safetensors"
    average = net.clone()
    return *trained(net, average=average, checkpoint=path), average, path


def test_the_loss_of_images_falls():
    _, losses = trained(
        EDM(DiT(8, 2, 3, 16, 1, 2, 2, learn_sigma=False)),
        recipe=dataclasses.replace(RECIPE, steps=150, batch=16),
    )
    assert all(loss.shape == (1,) and loss.isfinite() for loss in losses)
    assert sum(losses[-20:]) < 0.7 * sum(losses[:20])


@pytest.mark.parametrize("stop", (1, 33, 64, 65))
def test_a_run_on_images_killed_at_any_step_ends_as_if_it_never_was(stop, tmp_path, never_stopped):
    net, _, average, path = never_stopped
    for last in (stop, RECIPE.steps):
        again = tiny()
        mean = again.clone()
        steps = fit(again, WORLD, RECIPE, mean, checkpoint=tmp_path / "run.safetensors", every=7)
        for step in steps:
            if step.step == last:
                break
        steps.close()
    assert same_tensors(weights(again), weights(net)) and same_tensors(weights(mean), weights(average))
    assert same_tensors(read_safetensors(tmp_path / "run.safetensors")[0], read_safetensors(path)[0])


def test_the_averages_of_an_edm_are_those_of_a_plain_loop(never_stopped):
    net = tiny()
    by_hand = weights(net)
    for t, _ in enumerate(fit(net, WORLD, RECIPE)):
        decay = min(RECIPE.ema, (1 + t) / (10 + t))
        by_hand = {k: decay * v + (1 - decay) * net.params[k].detach() for k, v in by_hand.items()}
    assert same_tensors(weights(net), weights(never_stopped[0]))  # asking for averages changes nothing
    for k, v in weights(never_stopped[2]).items():
        close(v, by_hand[k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "data, words",
    [
        (
            Points(torch.zeros(1, 5, 3, 4, 4), torch.zeros(1, 5, dtype=torch.long)),
            ("x0 of shape (1, 5, 3, 4, 4)", "expected x0 of shape (1, 5, 3, 8, 8)"),
        ),
        (
            Points(torch.zeros(2, 5, *SHAPE), torch.zeros(2, 5, dtype=torch.long)),
            ("x0 of shape (2, 5, 3, 8, 8)", "expected x0 of shape (1, 5, 3, 8, 8)"),
        ),
        (Points(torch.zeros(1, 5, *SHAPE), torch.full((1, 5), 3)), ("label 3", "out of range for 2 classes")),
        (World("0AB", size=8), ("data has 3 classes", "expected 2")),
    ],
)
def test_images_of_another_shape_or_other_classes_are_refused_at_the_call(data, words):
    with refuses(*words):
        fit(tiny(), data, RECIPE)


# DogFit

DOGFIT = dataclasses.replace(RECIPE, w=1.5)


@pytest.mark.parametrize(
    "change, words",
    [
        *((dict(w=w), (f"w is {w}", "[1, 2)")) for w in (2.0, 3.0, 0.5, float("nan"))),
        *((dict(w=1.5, late=late), (f"late is {late}", "[0, 1]")) for late in (-0.1, 1.1, float("nan"))),
    ],
)
def test_a_weight_without_a_fixed_point_is_refused(change, words):
    with refuses(*words):
        Recipe(**change)


def test_a_weight_asks_for_a_guide_and_a_guide_for_a_weight():
    with refuses("recipe.w is 1.5 and guide is missing"):
        fit(tiny(), WORLD, DOGFIT)
    with refuses("recipe.w is 1.0 and guide is given"):
        fit(tiny(), WORLD, RECIPE, guide=guide)


@pytest.mark.parametrize("late, first", [(0.0, 0), (0.3, 21), (0.5, 35), (0.99, 70), (1.0, 70)])
def test_until_late_a_run_is_the_plain_one_bit_for_bit(late, first):
    """From step `first` on, counted from 0, targets hold the guide's difference: the weights after it
    differ.
    """
    net, plain = tiny(), tiny()
    for step, _ in zip(
        fit(net, WORLD, dataclasses.replace(DOGFIT, late=late), guide=guide),
        fit(plain, WORLD, RECIPE),
        strict=True,
    ):
        assert same_tensors(weights(net), weights(plain)) == (step.step <= first)


def test_the_guide_is_asked_only_when_it_is_needed():
    seen = []

    def asked(x, sigma):
        seen.append((x.shape, sigma.shape))
        return guide(x, sigma)

    trained(tiny(), recipe=dataclasses.replace(DOGFIT, late=0.5), guide=asked)
    assert seen == [((1, 4, *SHAPE), (1, 4))] * 35


def test_samples_without_a_label_are_trained_towards_the_data_alone():
    change = dict(dropout=1.0, steps=10, late=0.0)
    learned, losses = trained(tiny(), recipe=dataclasses.replace(DOGFIT, **change), guide=guide)
    plain, plain_losses = trained(tiny(), recipe=dataclasses.replace(RECIPE, **change))
    assert same_tensors(weights(learned), weights(plain)) and losses == plain_losses


def test_a_labelled_sample_s_target_is_moved_by_the_guide_s_difference():
    """The first loss of a run is that of target x0 + (w - 1) (D - D_guide), of x0 for null."""
    net = tiny()
    x0, label, sigma, x = (a[:, 0] for a in batches(WORLD, net.seeds, DOGFIT, 2, 0, SHAPE))
    D = net(x, sigma, label).detach()
    aim = torch.where((label == 2)[..., None, None, None], x0, x0 + 0.5 * (D - guide(x, sigma)))
    assert 0 < (label == 2).sum() < 4  # both kinds are in this batch
    _, losses = trained(net, recipe=dataclasses.replace(DOGFIT, late=0.0, steps=1), guide=guide)
    close(losses[0], denoising_loss(D, aim, sigma, 0.5))


def test_a_network_that_is_its_own_guide_learns_nothing_new_at_first():
    net = tiny()
    first = lambda **how: trained(
        tiny(), recipe=dataclasses.replace(how.pop("recipe"), steps=1, late=0.0, dropout=0.0), **how
    )
    labelled = batches(WORLD, net.seeds, dataclasses.replace(RECIPE, dropout=0.0), 2, 0, SHAPE)[1][:, 0]
    own, plain = first(recipe=DOGFIT, guide=net.denoiser(labelled)), first(recipe=RECIPE)
    close(own[1], plain[1])
    for k, v in weights(plain[0]).items():
        close(weights(own[0])[k], v, rtol=1e-4, atol=1e-5)


def test_dogfit_killed_late_ends_as_if_it_never_was(tmp_path):
    how = dict(recipe=DOGFIT, guide=guide)
    whole, _ = trained(tiny(), **how)
    steps = fit(tiny(), WORLD, DOGFIT, checkpoint=tmp_path / "run.safetensors", every=5, guide=guide)
    for step in steps:
        if step.step == 50:
            break
    steps.close()
    again, losses = trained(tiny(), checkpoint=tmp_path / "run.safetensors", **how)
    assert same_tensors(weights(again), weights(whole)) and 20 <= len(losses) <= 25


@pytest.mark.parametrize("w", (1.3, 1.5))
def test_dogfit_converges_to_domain_guidance_of_weight_1_over_2_minus_w(w):
    """All data at 1, the guide that of N(0, 1): D = D_guide + (1 - D_guide) / (2 - w)."""
    prior = lambda x, sigma: x / (1 + torch.as_tensor(sigma)[..., None] ** 2)
    net, data = (
        Ensemble.of([0], dim=1, num_classes=1, width=32, depth=2, sigma_data=1.0),
        Points(torch.ones(1, 4, 1), torch.zeros(1, 4).long()),
    )
    for _ in fit(
        net, data, Recipe(steps=1500, batch=256, lr=3e-3, P_mean=0.0, P_std=0.3, w=w, late=0.2), guide=prior
    ):
        pass
    x, sigma = torch.linspace(-0.5, 2.5, 30)[None, :, None], torch.ones(1, 30)
    guided = prior(x, sigma) + (1 - prior(x, sigma)) / (2 - w)
    error = lambda label, truth: (net.denoiser(label)(x, sigma) - truth).abs().max().item()
    assert error(0, guided) < 0.1 < 0.25 < error(0, torch.ones(())) and error(1, torch.ones(())) < 0.1

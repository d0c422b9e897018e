import math

import pytest
import torch
from helpers import random_labelled, refuses
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dgtoy import MLP, Ensemble, Points, Recipe, cfg, fit, guided, heun, karras, last
from dgtoy.nets import preconditioned
from dgtoy.train import batches, denoising_loss

close = torch.testing.assert_close
SMALL = dict(num_classes=3, width=16, depth=2)


def awake(net, seed=0):
    """A network whose last layer is no longer 0, so that everything in it matters."""
    generator = torch.Generator().manual_seed(seed)
    for p in net.params.values() if isinstance(net, Ensemble) else net.parameters():
        p.data += 0.3 * torch.randn(p.shape, generator=generator)
    return net


def points(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9))


@given(st.floats(1e-3, 100), st.floats(0.1, 5))
def test_a_fresh_network_returns_c_skip_x(sigma, sigma_data):
    net, x = MLP(sigma_data=sigma_data, **SMALL), points(4, 2)
    close(net.denoiser(1)(x, sigma), sigma_data**2 / (sigma_data**2 + sigma**2) * x)


@given(st.floats(1e-3, 100))
def test_the_body_s_answer_is_scaled_by_c_out(sigma):
    """sigma sigma_data / sqrt(sigma^2 + sigma_data^2), and the body sees x of about unit size."""
    x, seen = 2.0 * points(4, 2), []

    def body(features):
        seen.append(features)
        return torch.ones_like(x)

    out = preconditioned(body, x, sigma, 1, 3, 2.0)
    scale = math.sqrt(sigma**2 + 2.0**2)
    close(out, (2.0 / scale) ** 2 * x + sigma * 2.0 / scale)
    close(seen[0][:, :2], x / scale)
    assert seen[0].shape == (4, 2 + 16 + 4) and seen[0][:, -4:].tolist() == [[0, 1, 0, 0]] * 4


def test_skip_and_scale_leave_a_target_of_unit_variance_for_the_body():
    """c_out F = x0 - c_skip x: with x0 of std sigma_data the target of F has variance 1 at every level."""
    g = torch.Generator().manual_seed(0)
    x0, eps = 2.0 * torch.randn(200_000, 1, generator=g), torch.randn(200_000, 1, generator=g)
    for sigma in (0.05, 1.0, 20.0):
        x = x0 + sigma * eps
        skip = preconditioned(lambda features: torch.zeros_like(x), x, sigma, 0, 0, 2.0)
        c_out = preconditioned(lambda features: torch.ones_like(x), x, sigma, 0, 0, 2.0) - skip
        assert ((x0 - skip) / c_out).std().item() == pytest.approx(1.0, abs=0.01)


def test_an_almost_clean_point_is_left_alone():
    x = points(4, 2)
    close(awake(MLP(**SMALL)).denoiser(0)(x, 1e-6), x, rtol=0, atol=1e-4)


def test_the_seed_alone_decides_the_weights():
    a, b, c = (MLP(seed=s, **SMALL).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(a[k], b[k]) for k in a) and not torch.equal(a["body.0.weight"], c["body.0.weight"])


@pytest.mark.parametrize("k", range(3))
def test_member_k_of_an_ensemble_is_network_k(k):
    nets = [awake(MLP(seed=s, **SMALL), s) for s in (3, 5, 9)]
    together, x = Ensemble(nets), points(3, 7, 2)
    sigma, label = points(3, 7).abs() + 0.1, torch.arange(21).reshape(3, 7) % 4
    close(together(x, sigma, label)[k], nets[k](x[k], sigma[k], label[k]))
    close(together.member(k)(x[k], 0.5, 1), nets[k](x[k], 0.5, 1), rtol=0, atol=0)
    close(together.denoiser(1)(x, 0.5)[k], nets[k].denoiser(1)(x[k], 0.5))


def test_a_fresh_ensemble_holds_the_networks_of_its_seeds():
    together = Ensemble.of([4, 2], **SMALL)
    assert len(together) == 2 and together.seeds == [4, 2] and together.null == 3
    for k, seed in enumerate((4, 2)):
        alone = MLP(seed=seed, **SMALL).state_dict()
        assert all(torch.equal(v, alone[name]) for name, v in together.member(k).state_dict().items())


def test_members_do_not_mix():
    together, x = awake(Ensemble.of(range(3), **SMALL)), points(3, 5, 2)
    before = together.denoiser(0)(x, 0.5)
    for p in together.params.values():
        p.data[1] += 1
    after = together.denoiser(0)(x, 0.5)
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.isclose(before[1], after[1]).all()


@pytest.fixture(scope="module")
def trained():
    """Three seeds trained together for 100 steps, more than one block of random numbers, and their data."""
    world = random_labelled(6, 2, classes=3, dtype=torch.float32)
    x0 = torch.stack([world.sample(50, generator=torch.Generator().manual_seed(s)) for s in range(3)])
    data, recipe = (
        Points(x0, torch.arange(50).expand(3, -1) % 3),
        Recipe(steps=100, batch=32, lr=3e-3, dropout=0.2, ema=0.9),
    )
    together = Ensemble.of([7, 0, 23], **SMALL)
    average = together.clone()
    losses = torch.stack([step.loss for step in fit(together, data, recipe, average)])
    return together, average, losses, data, recipe


@pytest.mark.parametrize("k, seed", list(enumerate([7, 0, 23])))
def test_a_member_trained_in_the_ensemble_is_the_network_trained_alone(k, seed, trained):
    """The plain loop a person writes: one nn.Module, one batch, one Adam; averages after each step."""
    together, average, losses, data, recipe = trained
    net, mean = MLP(seed=seed, **SMALL), MLP(seed=seed, **SMALL)
    adam, mine = (
        torch.optim.Adam(net.parameters(), lr=recipe.lr),
        Points(data.x0[k : k + 1], data.label[k : k + 1]),
    )
    for t in range(recipe.steps):
        x0, label, sigma, x = (a[0, t % 64] for a in batches(mine, [seed], recipe, net.null, t // 64, 2))
        loss = denoising_loss(net(x, sigma, label), x0, sigma, net.sigma_data)
        adam.zero_grad()
        loss.backward()
        adam.step()
        close(loss.detach(), losses[t, k], rtol=1e-3, atol=1e-4)
        decay = min(recipe.ema, (1 + t) / (10 + t))
        for m, p in zip(mean.parameters(), net.parameters(), strict=True):
            m.data = decay * m.data + (1 - decay) * p.data
    for found, alone in ((together.member(k), net), (average.member(k), mean)):
        for name, p in alone.state_dict().items():
            close(found.state_dict()[name], p, rtol=1e-3, atol=2e-4, msg=name)
    assert not torch.allclose(net.body[0].weight, MLP(seed=seed, **SMALL).body[0].weight, atol=0.02)


def test_new_classes_change_the_label_table_alone():
    net = awake(MLP(seed=4, **SMALL))
    new = net.with_classes(5, seed=8)
    assert (new.null, new.config["num_classes"], new.config["seed"]) == (5, 5, 8)
    old, fresh = net.state_dict(), new.state_dict()
    assert torch.equal(fresh["body.0.weight"][:, :18], old["body.0.weight"][:, :18])
    assert fresh["body.0.weight"].shape[1] == 18 + 6
    assert fresh["body.0.weight"][:, 18:].std().item() == pytest.approx(0.02, rel=0.3)
    assert all(torch.equal(fresh[k], old[k]) for k in old if k != "body.0.weight")


def test_every_network_takes_new_classes_without_a_seed():
    net, ensemble = MLP(seed=4, **SMALL), Ensemble.of([4], **SMALL)
    assert net.with_classes(5).null == ensemble.with_classes(5).null == 5


def test_the_old_network_keeps_its_weights_when_new_classes_are_made():
    net = awake(MLP(seed=4, **SMALL))
    new = net.with_classes(5, seed=8)
    before = net.body[2].weight.clone()
    new.body[2].weight.data += 1
    assert torch.equal(net.body[2].weight, before)


def test_new_classes_of_an_ensemble_are_those_of_its_members():
    together = awake(Ensemble.of([1, 2], **SMALL))
    new = together.with_classes(5, seeds=[11, 12])
    assert new.seeds == [11, 12] and new.null == 5
    for k, seed in enumerate((11, 12)):
        alone = together.member(k).with_classes(5, seed).state_dict()
        assert all(torch.equal(v, alone[name]) for name, v in new.member(k).state_dict().items())
    assert together.with_classes(5).seeds == [1, 2]


def test_one_seed_for_each_member_is_needed_for_new_classes():
    for seeds in ([1], [1, 2, 3], 2):
        with refuses("seeds", "2"):
            Ensemble.of([1, 2], **SMALL).with_classes(5, seeds=seeds)


def test_a_clone_shares_nothing():
    together = awake(Ensemble.of([1, 2], **SMALL))
    copy = together.clone()
    for p in copy.params.values():
        p.data += 1
    assert not any(
        torch.equal(p, q) for p, q in zip(together.params.values(), copy.params.values(), strict=True)
    )


def test_moving_an_ensemble_keeps_its_answer():
    together, x = awake(Ensemble.of([1, 2], **SMALL)), points(2, 5, 2)
    before = together.denoiser(0)(x, 0.5)
    assert torch.equal(together.to("cpu").denoiser(0)(x, 0.5), before) and together.device.type == "cpu"


def test_a_level_for_each_sample_equals_the_shared_level():
    net, x, sigma = awake(MLP(**SMALL)), points(4, 2), torch.tensor([0.01, 0.5, 3.0, 40.0])
    rows = torch.cat([net.denoiser(1)(x[i : i + 1], s) for i, s in enumerate(sigma)])
    close(net.denoiser(1)(x, sigma), rows)
    close(net.denoiser(1)(x, torch.tensor(0.5, dtype=torch.float64)), net.denoiser(1)(x, 0.5))


def test_a_label_for_each_sample_equals_each_class_s_denoiser():
    net, x, label = awake(MLP(**SMALL)), points(4, 2), torch.tensor([2, 0, 3, 1])
    rows = torch.cat([net.denoiser(c)(x[i : i + 1], 0.7) for i, c in enumerate(label.tolist())])
    close(net.denoiser(label)(x, 0.7), rows)


def test_labels_matter_and_null_is_one_of_them():
    net, x = awake(MLP(**SMALL)), points(4, 2)
    answers = [net.denoiser(c)(x, 0.7) for c in range(net.null + 1)]
    assert all(not torch.allclose(answers[i], answers[j]) for i in range(4) for j in range(i))


def test_a_network_without_classes_has_null_0():
    net = MLP(width=8)
    assert net.null == 0 and net.denoiser(net.null)(points(3, 2), 1.0).shape == (3, 2)


def test_an_ensemble_takes_a_level_for_each_sample_or_member():
    together, x, sigma = awake(Ensemble.of([1, 2], **SMALL)), points(2, 2, 2), torch.tensor([0.1, 5.0])
    by_member = torch.stack([together.member(k).denoiser(0)(x[k], sigma[k]) for k in range(2)])
    close(together.denoiser(0)(x, sigma[:, None].expand(2, 2)), by_member)
    close(together.denoiser(0)(x, sigma), by_member)


def test_networks_are_guided_and_sampled_like_anything_else():
    together = awake(Ensemble.of([1, 2], **SMALL))
    x_T = 5 * points(2, 6, 2)
    x = last(heun(cfg(together, 1, together.null, 1.5), x_T, karras(8, 0.05, 5.0)))
    for k in range(2):
        net = together.member(k)
        alone = last(heun(guided(net.denoiser(1), net.denoiser(net.null), 1.5), x_T[k], karras(8, 0.05, 5.0)))
        close(x[k], alone, rtol=1e-3, atol=1e-4)


def test_denoising_keeps_no_graph():
    x = points(4, 2).requires_grad_()
    assert not MLP(**SMALL).denoiser(0)(x, 1.0).requires_grad


@pytest.mark.parametrize("net", (awake(MLP(**SMALL)), awake(Ensemble.of([0, 1], **SMALL))))
def test_a_network_computes_in_its_own_precision_and_answers_in_that_of_x(net):
    x = points(2, 5, 2)
    for dtype in (torch.float64, torch.float16):
        found = net.denoiser(1)(x.to(dtype), 0.5)
        assert found.dtype == dtype
        close(found, net.denoiser(1)(x.to(dtype).float(), 0.5).to(dtype))


@pytest.mark.parametrize("label", (4, -1, torch.tensor([0, 1, 4])))
def test_a_label_out_of_range_is_refused_before_any_work(label):
    for net in (MLP(**SMALL), Ensemble.of([0], **SMALL)):
        with refuses("label", "is out of range for 3 classes (null is 3)"):
            net.denoiser(label)


@pytest.mark.parametrize("label", (1.0, torch.tensor([True, False])))
def test_a_label_that_is_no_integer_is_refused(label):
    with refuses("label has dtype", "integers"):
        MLP(**SMALL).denoiser(label)


@pytest.mark.parametrize("sigma", (0.0, -1.0, math.nan, math.inf))
def test_a_level_that_is_not_positive_is_refused(sigma):
    with refuses("sigma is", "> 0"):
        MLP(**SMALL).denoiser(0)(points(4, 2), sigma)


def test_points_of_another_dimension_are_refused():
    with refuses("x has shape (4, 3)", "2"):
        MLP(**SMALL).denoiser(0)(points(4, 3), 1.0)
    with refuses("x has shape (3, 4, 2)", "2"):
        Ensemble.of([0, 1], **SMALL).denoiser(0)(points(3, 4, 2), 1.0)


def test_labels_for_another_number_of_points_are_refused():
    with refuses("label has shape (3,)", "(4,"):
        MLP(**SMALL).denoiser(torch.tensor([0, 1, 2]))(points(4, 2), 1.0)


def test_an_ensemble_of_nobody_is_refused():
    with refuses("members is empty"):
        Ensemble([])


def test_the_body_is_a_plain_mlp():
    layers = list(MLP(dim=3, num_classes=2, width=8, depth=2).body)
    assert [type(layer) for layer in layers] == [nn.Linear, nn.SiLU, nn.Linear, nn.SiLU, nn.Linear]
    assert [layer.in_features for layer in layers[::2]] == [3 + 16 + 3, 8, 8] and layers[-1].out_features == 3

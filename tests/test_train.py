import copy
import dataclasses
import json
import math
import os
import signal
import time

import numpy as np
import pytest
import torch
from helpers import gaussian, random_labelled, refuses, started
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from dgtoy import MLP, Ensemble, LabelledMixture, Points, Recipe, fit, train
from dgtoy.checkpoint import read_safetensors, write_safetensors, write_text
from dgtoy.dit import VP, DiT
from dgtoy.train import batches, denoising_loss
from dgtoy.trainer import Trainer, TrainingConfig, clip_each_, generator, matrices

close = torch.testing.assert_close
# 70 steps: more than one block of random numbers
RECIPE = Recipe(steps=70, batch=8, lr=1e-2, dropout=0.2, ema=0.9)
SEEDS = [3, 8]


def nets(seeds=SEEDS, **changes):
    return Ensemble.of(seeds, **dict(num_classes=2, width=8, depth=1) | changes)


def data(seeds=2):
    g = torch.Generator().manual_seed(0)
    return Points(torch.randn(seeds, 20, 2, generator=g), torch.arange(20).expand(seeds, -1) % 2)


def state(net, average):
    return {f"net.{k}": v.detach() for k, v in net.params.items()} | {
        f"ema.{k}": v.detach() for k, v in average.params.items()
    }


def finished(path=None, recipe=RECIPE, every=7, stop=None):
    """Train to the end, or drop the generator after `stop` steps as a killed process does.  -> networks,
    averages
    """
    net = nets()
    average = net.clone()
    steps = fit(net, data(), recipe, average, checkpoint=path, every=every)
    for step in steps:
        if step.step == stop:
            break
    steps.close()
    return net, average


def identical(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """Networks, averages and checkpoint of a run that was never stopped."""
    path = tmp_path_factory.mktemp("whole") / "run.safetensors"
    return *finished(path), read_safetensors(path)


# the loop


def test_every_step_is_told_with_the_loss_of_each_seed():
    steps = list(fit(nets(), data(), dataclasses.replace(RECIPE, steps=5)))
    assert [s.step for s in steps] == [1, 2, 3, 4, 5]
    assert all(s.loss.shape == (2,) and s.loss.isfinite().all() for s in steps)


def test_nothing_is_trained_before_the_first_step_is_asked_for():
    net = nets()
    before = {k: v.detach().clone() for k, v in net.params.items()}
    steps = fit(net, data(), RECIPE)
    identical(before, {k: v.detach() for k, v in net.params.items()})
    next(steps)
    assert not torch.equal(before["body.2.bias"], net.params["body.2.bias"])


def test_a_checkpoint_changes_nothing(never_stopped):
    identical(state(*finished()), state(*never_stopped[:2]))


def test_training_twice_is_training_once():
    identical(state(*finished()), state(*finished()))


def test_the_loss_is_the_weighted_square_error(rng):
    x0, x0_hat = torch.randn(2, 3, 4, 2, generator=rng)
    sigma = torch.rand(3, 4, generator=rng) + 0.1
    by_hand = [
        [(1 / sigma[s, b] ** 2 + 1 / 4) * (x0_hat[s, b] - x0[s, b]).square().mean() for b in range(4)]
        for s in range(3)
    ]
    close(denoising_loss(x0_hat, x0, sigma, 2.0), torch.tensor(by_hand).mean(1))
    with refuses("x0_hat has shape", "that of x0"):  # which would be broadcast
        denoising_loss(x0_hat[..., :1], x0, sigma, 2.0)


def test_training_comes_closer_to_the_exact_denoiser():
    truth = gaussian(1.0, 0.5, torch.float32)
    mixture = LabelledMixture(truth.weights, truth.means, truth.covs, [0])
    net, x = (
        Ensemble.of([0], dim=1, num_classes=1, width=16, depth=1),
        torch.linspace(0, 2, 20)[None, :, None],
    )
    error = lambda: (net.denoiser(0)(x, 0.5) - truth.denoise(x, 0.5)).square().mean()
    before = error()
    for _ in fit(net, mixture, Recipe(steps=200, batch=64, lr=1e-2)):
        pass
    assert error() < 0.25 * before


@given(st.integers(0, 200), st.floats(0, 0.9999))
@settings(max_examples=10)
def test_the_average_s_decay_warms_up(step, ema):
    """One step from a known state: average + (1 - min(ema, (1 + t)/(10 + t))) (weights - average)."""
    net, average = nets(seeds=[0]), nets(seeds=[1])
    old = {k: v.detach().clone() for k, v in average.params.items()}
    recipe = dataclasses.replace(RECIPE, steps=step + 1, ema=ema)
    trainer = Trainer(net, lambda net, x: sum(x * p.sum() for p in net.params.values()), recipe, average)
    trainer.step = step
    list(trainer.run(lambda step: [torch.ones(())]))
    decay = min(ema, (1 + step) / (10 + step))
    for k, v in average.params.items():
        close(v.detach(), decay * old[k] + (1 - decay) * net.params[k].detach())


def test_the_averages_are_those_of_a_plain_loop():
    net = nets()
    average, by_hand = net.clone(), {k: v.detach().clone() for k, v in net.params.items()}
    for t, _ in enumerate(fit(net, data(), dataclasses.replace(RECIPE, steps=30), average)):
        decay = min(RECIPE.ema, (1 + t) / (10 + t))
        by_hand = {k: decay * v + (1 - decay) * net.params[k].detach() for k, v in by_hand.items()}
    for k, v in average.params.items():
        close(v.detach(), by_hand[k], rtol=1e-5, atol=1e-6)


# what a step sees


def test_each_network_s_gradient_is_clipped_alone():
    recipe = dataclasses.replace(RECIPE, steps=10, clip=0.05)
    together, alone = nets(), nets(SEEDS[1:])
    list(fit(together, data(), recipe))
    list(fit(alone, Points(data().x0[1:], data().label[1:]), recipe))
    for name, p in alone.params.items():
        close(together.params[name][1], p[0], rtol=1e-4, atol=1e-5, msg=name)


def test_gradients_are_clipped_as_torch_clips_them_and_short_ones_stay():
    grads = [torch.tensor([[3.0, 0.0], [0.3, 0.0]]), torch.tensor([[4.0], [0.4]])]  # of norms 5 and 0.5
    expected = [g.clone() for g in grads]
    for k in range(2):
        own = [torch.nn.Parameter(torch.zeros(g.shape[1])) for g in grads]
        for p, g in zip(own, expected, strict=True):
            p.grad = g[k]  # clipped in place
        torch.nn.utils.clip_grad_norm_(own, 1.0)
    clip_each_(grads, 1.0)
    assert torch.equal(grads[1][1], torch.tensor([0.4]))
    for found, right in zip(grads, expected, strict=True):
        close(found, right)


def test_a_seed_s_draws_do_not_depend_on_the_other_seeds():
    for source, alone in [
        (data(3), lambda k: Points(data(3).x0[k : k + 1], data(3).label[k : k + 1])),
        (random_labelled(dtype=torch.float32), lambda k: random_labelled(dtype=torch.float32)),
    ]:
        together = batches(source, [5, 1, 9], RECIPE, 2, 4, 2)
        for k, seed in enumerate([5, 1, 9]):
            for one, all_ in zip(batches(alone(k), [seed], RECIPE, 2, 4, 2), together, strict=True):
                assert torch.equal(one[0], all_[k])


def test_seeds_and_blocks_differ():
    x = batches(data(2), [0, 1], RECIPE, 2, 0, 2)[3]
    assert not torch.equal(x[0], x[1]) and not torch.equal(x, batches(data(2), [0, 1], RECIPE, 2, 1, 2)[3])


def test_draws_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    batches(data(2), SEEDS, RECIPE, 2, 0, 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_noisy_points_are_clean_points_plus_sigma_times_noise():
    x0, label, sigma, x = batches(
        data(2), SEEDS, dataclasses.replace(RECIPE, batch=500, P_mean=0.3, P_std=0.7), 2, 0, 2
    )
    eps = (x - x0) / sigma[..., None]
    assert abs(eps.mean()) < 0.01 and eps.std().item() == pytest.approx(1, abs=0.01)
    assert sigma.log().mean().item() == pytest.approx(
        0.3, abs=0.01
    ) and sigma.log().std().item() == pytest.approx(0.7, abs=0.01)
    together = torch.stack([eps[..., 0].flatten(), eps[..., 1].flatten(), sigma.log().flatten()])
    assert torch.corrcoef(together).triu(1).abs().max() < 0.02


def test_a_training_point_keeps_its_label():
    points = data(2)
    x0, label, _, _ = batches(points, SEEDS, dataclasses.replace(RECIPE, dropout=0.0), 2, 0, 2)
    for s in range(2):
        row = (x0[s].reshape(-1, 1, 2) == points.x0[s]).all(-1).int().argmax(-1)
        assert torch.equal(points.x0[s][row], x0[s].reshape(-1, 2)) and torch.equal(
            points.label[s][row], label[s].flatten()
        )
        assert len(row.unique()) == 20  # every point is drawn


@pytest.mark.parametrize(
    "dropout, low, high", [(0.0, 0, 0), (0.1, 0.09, 0.11), (0.5, 0.48, 0.52), (1.0, 1, 1)]
)
def test_labels_are_dropped_as_often_as_asked(dropout, low, high):
    _, label, _, _ = batches(data(2), SEEDS, dataclasses.replace(RECIPE, dropout=dropout, batch=200), 2, 0, 2)
    assert low <= (label == 2).float().mean() <= high


def test_without_dropout_the_null_branch_s_own_column_is_never_trained():
    net = nets()
    before = net.params["body.0.weight"].detach()[:, -1].clone()
    for _ in fit(net, data(), dataclasses.replace(RECIPE, steps=20, dropout=0.0)):
        pass
    assert torch.equal(net.params["body.0.weight"].detach()[:, -1], before)
    assert not torch.equal(
        net.params["body.0.weight"].detach()[:, -2], nets().params["body.0.weight"].detach()[:, -2]
    )


def test_with_dropout_1_only_the_null_column_is_trained():
    net = nets()
    for _ in fit(net, data(), dataclasses.replace(RECIPE, steps=20, dropout=1.0)):
        pass
    fresh = nets().params["body.0.weight"].detach()
    assert torch.equal(net.params["body.0.weight"].detach()[:, -3:-1], fresh[:, -3:-1])
    assert not torch.equal(net.params["body.0.weight"].detach()[:, -1], fresh[:, -1])


# stopping and going on


@pytest.mark.parametrize("stop", (1, 6, 7, 8, 33, 63, 64, 65, 69, 70))
def test_a_run_killed_at_any_step_ends_as_if_it_never_was(stop, tmp_path, never_stopped):
    net, average, (tensors, header) = never_stopped
    finished(tmp_path / "run.safetensors", stop=stop)
    identical(state(*finished(tmp_path / "run.safetensors")), state(net, average))
    again, same = read_safetensors(tmp_path / "run.safetensors")
    identical(again, tensors)  # the optimiser's moments too
    assert same == header


def test_a_run_killed_many_times_ends_as_if_it_never_was(tmp_path, never_stopped):
    for stop in (9, 20, 20, 41, 64, 68):
        finished(tmp_path / "run.safetensors", every=5, stop=stop)
    identical(state(*finished(tmp_path / "run.safetensors", every=5)), state(*never_stopped[:2]))


@settings(max_examples=8)
@given(stop=st.integers(1, 70), every=st.integers(1, 80))
def test_where_checkpoints_fall_does_not_matter(stop, every, tmp_path_factory, never_stopped):
    path = tmp_path_factory.mktemp("run") / "run.safetensors"
    finished(path, every=every, stop=stop)
    identical(state(*finished(path, every=every)), state(*never_stopped[:2]))


def train_until_killed(path):
    net = nets()
    for step in fit(net, data(), RECIPE, net.clone(), checkpoint=path, every=1):
        if step.step == 60:
            time.sleep(60)


def test_a_process_that_is_killed_leaves_a_checkpoint_to_go_on_from(tmp_path, never_stopped):
    """kill -9 of a process in the middle of training; the run that goes on ends as if nothing happened."""
    path = tmp_path / "run.safetensors"
    process = started(train_until_killed, path)
    while process.is_alive() and not (path.exists() and read_safetensors(path)[1]["step"] >= 30):
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and 30 <= read_safetensors(path)[1]["step"] <= 60
    identical(state(*finished(path)), state(*never_stopped[:2]))


def test_a_finished_run_is_loaded_not_trained(tmp_path, never_stopped):
    finished(tmp_path / "run.safetensors")
    net = nets()
    average = net.clone()
    assert list(fit(net, data(), RECIPE, average, checkpoint=tmp_path / "run.safetensors")) == []
    identical(state(net, average), state(*never_stopped[:2]))


def test_a_longer_recipe_goes_on_from_the_shorter_one(tmp_path, never_stopped):
    finished(tmp_path / "run.safetensors", recipe=dataclasses.replace(RECIPE, steps=40))
    identical(state(*finished(tmp_path / "run.safetensors")), state(*never_stopped[:2]))


def test_a_checkpoint_past_the_end_of_the_recipe_is_refused(tmp_path):
    finished(tmp_path / "run.safetensors")
    with refuses("step 70", "40"):
        finished(tmp_path / "run.safetensors", recipe=dataclasses.replace(RECIPE, steps=40))


def test_a_checkpoint_holds_all_there_is_and_says_what_it_is(never_stopped):
    tensors, header = never_stopped[2]
    names = nets().params
    assert set(tensors) == {f"{part}.{name}" for part in ("net", "ema", "m", "v") for name in names}
    assert (
        header["step"] == 70
        and header["seeds"] == SEEDS
        and header["recipe"]["lr"] == 1e-2
        and header["model"]["width"] == 8
    )


def test_nothing_but_the_checkpoint_is_left_behind(tmp_path):
    finished(tmp_path / "deep" / "run.safetensors", stop=30)
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["run.safetensors"]


# what goes wrong


class Poisoned:
    """Data whose points are not a number from a step on, for one of the seeds."""

    def __init__(self, inner, step, k):
        self.inner, self.step, self.k, self.block = inner, step, k, -1

    def draw(self, u, z):
        x0, label = self.inner.draw(u, z)
        self.block += 1
        if self.block == self.step // train.BLOCK:
            x0[self.k, self.step % train.BLOCK :] = math.nan
        return x0, label


@pytest.mark.parametrize("step", (0, 5, 66))
def test_a_loss_that_is_not_finite_stops_with_step_and_seed_and_the_last_good_state(step, tmp_path):
    net = nets()
    average, path = net.clone(), tmp_path / "run.safetensors"
    with refuses("seed 8", f"step {step + 1};", f"those of step {step}", error=FloatingPointError):
        list(fit(net, Poisoned(data(), step, 1), RECIPE, average, checkpoint=path, every=1_000))
    good, good_average = finished(recipe=dataclasses.replace(RECIPE, steps=step))
    identical(state(net, average), state(good, good_average))
    tensors, header = read_safetensors(path)
    assert header["step"] == step and all(v.isfinite().all() for v in tensors.values())
    assert list(tmp_path.iterdir()) == [path]


def test_of_networks_without_seeds_the_number_of_the_one_whose_loss_is_not_finite_is_told():
    nets = torch.nn.ParameterDict(dict(w=torch.ones(3)))
    trainer = Trainer(nets, lambda net, x: net["w"] * x, RECIPE)
    with pytest.raises(FloatingPointError, match="the loss of seed 2 is not finite at step 1"):
        list(trainer.run(lambda step: (torch.tensor([1.0, 2.0, math.nan]),)))
    assert torch.equal(nets["w"].detach(), torch.ones(3))


def test_after_better_data_a_poisoned_run_goes_on(tmp_path, never_stopped):
    net, path = nets(), tmp_path / "run.safetensors"
    with pytest.raises(FloatingPointError):
        list(fit(net, Poisoned(data(), 20, 0), RECIPE, net.clone(), checkpoint=path))
    identical(state(*finished(path)), state(*never_stopped[:2]))


def refused_with_the_file_intact(path, *words, net=None, recipe=RECIPE, average=True):
    """`fit` raises at the call, in one line that names the file, and changes neither the file nor the
    network.
    """
    net = nets() if net is None else net
    before, weights = path.read_bytes(), {k: v.detach().clone() for k, v in net.params.items()}
    with refuses(path.name, *words):
        fit(net, data(len(net)), recipe, net.clone() if average else None, checkpoint=path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == [path.name]
    identical({k: v.detach() for k, v in net.params.items()}, weights)


@pytest.fixture
def checkpoint(tmp_path):
    finished(tmp_path / "run.safetensors", stop=14)
    return tmp_path / "run.safetensors"


@pytest.mark.parametrize("keep", (0, 4, 100, 1_000, -1))
def test_a_truncated_checkpoint_is_refused(keep, checkpoint):
    checkpoint.write_bytes(checkpoint.read_bytes()[:keep])
    refused_with_the_file_intact(checkpoint, "not a complete checkpoint")


def test_a_file_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "run.safetensors"
    for make in (
        lambda: path.write_bytes(b"hello, world" * 50),
        lambda: torch.save({"a": torch.ones(3)}, path),
        lambda: save_file({"a": torch.ones(3)}, path),
    ):
        make()
        refused_with_the_file_intact(path, "not a complete checkpoint")
    write_safetensors(path, {"a": torch.ones(3)}, {"kind": "something else"})
    refused_with_the_file_intact(path)


@pytest.mark.parametrize(
    "change", (dict(lr=1e-3), dict(batch=9), dict(dropout=0.0), dict(ema=0.99), dict(P_mean=0.0))
)
def test_a_checkpoint_of_another_recipe_is_refused(change, checkpoint):
    ((key, value),) = change.items()
    refused_with_the_file_intact(
        checkpoint, "recipe", f"this run has {key} = {value}", recipe=dataclasses.replace(RECIPE, **change)
    )


def test_a_checkpoint_of_other_seeds_is_refused(checkpoint):
    refused_with_the_file_intact(checkpoint, "seeds [3, 8]", "[3, 9]", net=nets([3, 9]))


def test_a_checkpoint_without_the_averages_asked_for_is_refused(checkpoint):
    refused_with_the_file_intact(checkpoint, "ema True", "False", average=False)


@pytest.mark.parametrize("change", (dict(width=9), dict(depth=2), dict(num_classes=3), dict(sigma_data=1.0)))
def test_a_checkpoint_of_another_model_is_refused(change, checkpoint):
    refused_with_the_file_intact(checkpoint, net=nets(**change))


def test_a_checkpoint_with_a_tensor_missing_or_misshapen_is_refused(checkpoint):
    tensors, header = read_safetensors(checkpoint)
    write_safetensors(checkpoint, {k: v for k, v in tensors.items() if k != "m.body.0.bias"}, header)
    refused_with_the_file_intact(checkpoint, "m.body.0.bias has shape nothing", "(2, 8)")
    write_safetensors(checkpoint, tensors | {"ema.body.0.bias": torch.ones(2, 9)}, header)
    refused_with_the_file_intact(checkpoint, "ema.body.0.bias has shape (2, 9)", "(2, 8)")


@pytest.mark.parametrize(
    "change", ([1], None, "step", dict(step=-1), dict(step=True), dict(step=9_999), dict(origin=None))
)
def test_a_header_that_is_none_is_refused(change, checkpoint):
    tensors, header = read_safetensors(checkpoint)
    write_safetensors(checkpoint, tensors, header | change if isinstance(change, dict) else change)
    refused_with_the_file_intact(checkpoint)


@pytest.mark.parametrize("name, dtype", [("net", torch.half), ("ema", torch.int64), ("m", torch.half)])
def test_a_checkpoint_in_another_precision_is_refused(name, dtype, checkpoint):
    """It would go on, but not as if the run had never stopped."""
    tensors, header = read_safetensors(checkpoint)
    name = f"{name}.body.0.bias"
    write_safetensors(checkpoint, tensors | {name: tensors[name].to(dtype)}, header)
    refused_with_the_file_intact(checkpoint, f"{name} is in {dtype}; expected torch.float32")


def test_numbers_of_numpy_are_saved_as_numbers(tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=np.int64(1), lr=np.float32(0.5))
    assert [type(n) for n in (recipe.steps, recipe.lr)] == [int, float]
    list(fit(nets(), data(), recipe, checkpoint=tmp_path / "run.safetensors"))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_is_the_same_without_a_gradient_outside_or_with_one_inside(mode, never_stopped):
    """Under torch.no_grad, and on points that want a gradient themselves."""
    points, net = data(), nets()
    points = Points(points.x0.requires_grad_(), points.label)
    average = net.clone()
    with mode():
        list(fit(net, points, RECIPE, average))
    identical(state(net, average), state(*never_stopped[:2]))


def test_a_write_that_fails_leaves_the_old_file_and_no_other(checkpoint, monkeypatch):
    before = checkpoint.read_bytes()

    def broken(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("dgtoy.checkpoint.save_file", broken)
    with pytest.raises(OSError, match="no space left"):
        finished(checkpoint)
    assert checkpoint.read_bytes() == before and list(checkpoint.parent.iterdir()) == [checkpoint]


def test_what_is_written_is_read_back(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).mT, "b": torch.ones(0)}
    write_safetensors(tmp_path / "x.safetensors", tensors, {"step": 3, "name": "σ"})
    found, header = read_safetensors(tmp_path / "x.safetensors")
    identical(found, tensors)
    assert header == {"step": 3, "name": "σ"} == json.loads(json.dumps(header))


def test_a_bit_that_changed_on_disk_is_seen(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.ones(()), "b": torch.ones(0), "c": torch.ones(3)}, {"step": 3})
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)
    with refuses("x.safetensors is not a complete checkpoint", "its numbers have changed"):
        read_safetensors(path)


def test_a_file_that_is_not_there_is_missed_by_its_own_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_safetensors(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(dropout=-0.1), "dropout is -0.1"),
        (dict(dropout=1.1), "dropout is 1.1"),
        (dict(dropout=math.nan), "dropout is nan"),
        (dict(ema=1.0), "ema is 1.0"),
        (dict(ema=-0.1), "ema is -0.1"),
        (dict(ema=math.nan), "ema is nan"),
        (dict(batch=0), "batch is 0; expected a number in [1, inf)"),
        (dict(steps=-1), "steps is -1"),
        (dict(lr=0.0), "lr is 0.0; expected a number in (0, inf)"),
        (dict(lr=math.nan), "lr is nan"),
        (dict(lr=math.inf), "lr is inf"),
        (dict(P_std=-1.0), "P_std is -1.0"),
        (dict(P_mean=math.nan), "P_mean is nan"),
    ],
)
def test_a_recipe_that_is_none_is_refused(change, word):
    with refuses(word):
        Recipe(**change)


def test_points_and_labels_that_do_not_agree_are_refused():
    for x0, label in [
        (torch.zeros(2, 5, 2), torch.zeros(2, 4)),
        (torch.zeros(5, 2), torch.zeros(5)),
        (torch.zeros(2, 5, 2), torch.zeros(5)),
    ]:
        with refuses("x0, label have shapes", "(S, n, *D), (S, n)"):
            Points(x0, label)


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: data(3), ("3", "2")),  # another number of seeds
        (lambda: data(1), ("1", "2")),
        (lambda: Points(torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.long)), ("3", "2")),
        (
            lambda: Points(torch.zeros(2, 5, 2), torch.full((2, 5), 3)),
            ("label 3", "out of range for 2 classes"),
        ),
        (lambda: random_labelled(classes=6, dtype=torch.float32), ("label 3", "out of range for 2 classes")),
        (lambda: random_labelled(classes=3, dtype=torch.float32), ("3 classes", "2 classes")),  # not null
        (lambda: random_labelled(d=5, dtype=torch.float32), ("points of shape (5,)", "(2,)")),
    ],
)
def test_data_of_another_shape_is_refused_at_the_call(make, words):
    with refuses(*words):
        fit(nets(), make(), RECIPE)


def test_a_guide_that_is_none_is_refused():
    guided = dataclasses.replace(RECIPE, steps=1, w=1.5, late=0.0)
    with refuses("guide is 5; expected a denoiser", error=TypeError):
        fit(nets(), data(), guided, guide=5)
    with refuses("guide gives a Tensor of torch.float32, shape (2, 8, 1)"):  # which would be broadcast
        list(fit(nets(), data(), guided, guide=lambda x, sigma: x[..., :1]))


def test_networks_in_double_precision_learn_from_a_mixture_as_those_in_single():
    single, double = MLP(num_classes=2, width=8), MLP(num_classes=2, width=8).double()
    together = [Ensemble([net]) for net in (single, double)]
    world = random_labelled(classes=2, dtype=torch.float32)
    one, other = ([step.loss for step in fit(net, world, RECIPE)] for net in together)
    close(torch.stack(other), torch.stack(one).double(), rtol=1e-3, atol=1e-4)


def test_a_network_without_parameters_is_refused():
    with refuses("a Identity has no parameters that train"):
        Trainer(torch.nn.Identity(), lambda net, x: x.sum(), RECIPE)


def test_a_network_can_be_trained_again_after_training():
    net, _ = finished(recipe=dataclasses.replace(RECIPE, steps=3))
    other = copy.deepcopy(net)
    for _ in fit(other, data(), dataclasses.replace(RECIPE, steps=3)):
        pass
    assert not torch.equal(other.params["body.2.bias"], net.params["body.2.bias"])


def test_a_network_that_is_no_ensemble_is_refused(rng):
    with pytest.raises(TypeError, match="net is a MLP; expected an Ensemble"):
        fit(MLP(), None, Recipe())


def test_what_a_killed_process_left_behind_goes_with_the_next_write(tmp_path):
    """Not what another one may be writing, and nothing of another kind."""
    left, busy, other = (tmp_path / name for name in (".b.json.77.part", ".a [1].json.78.part", ".x.part"))
    for path in (left, busy, other):
        path.write_text("half")
    for path in (left, other):
        os.utime(path, (0, 0))
    write_text(tmp_path / "a [1].json", "whole")
    assert {p.name for p in tmp_path.iterdir()} == {"a [1].json", busy.name, other.name}
    assert (tmp_path / "a [1].json").read_text() == "whole"


def muon_net():
    return VP(DiT(8, 2, 3, 32, 2, 2, 4, learn_sigma=False))


def muon_batch(step):
    g = generator(0, step)
    x0 = torch.randn(4, 3, 8, 8, generator=g)
    return x0, torch.arange(4), torch.randn(4, 3, 8, 8, generator=g)


def muon_loss(net, x0, label, eps):
    return (net.net(x0 + eps, torch.full((4,), 100.0), label) - x0).square().mean()


def muon_trainer(**changes):
    net = muon_net()
    for p in net.net.parameters():  # no gate is closed
        torch.nn.init.normal_(p.data, std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    recipe = TrainingConfig(**dict(steps=6, batch=4, lr=1e-2, ema=0.9, muon=3.0, clip=1.0) | changes)
    ema = net.clone()
    return Trainer(net, muon_loss, recipe, ema), net, ema


def test_muon_trains_the_blocks_matrices_as_a_plain_loop_does():
    trainer, net, _ = muon_trainer(steps=2)
    _, plain, _ = muon_trainer()
    named = dict(plain.net.named_parameters())
    ours = matrices(named)
    assert {n.split(".", 2)[2] for n in ours} == {
        f"{layer}.weight" for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    }
    muon = torch.optim.Muon(
        [named[n] for n in ours], lr=3e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW([p for n, p in named.items() if n not in ours], lr=1e-2, weight_decay=0.0)
    for step, found in enumerate(trainer.run(muon_batch)):
        loss = muon_loss(plain, *muon_batch(step))
        muon.zero_grad()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        muon.step()
        adam.step()
        close(found.loss, loss.detach(), rtol=1e-4, atol=0)  # Muon's products are of bfloat16
    for name, p in net.net.named_parameters():
        assert (p - named[name]).norm() < 5e-3 * named[name].norm(), name


def test_a_run_with_muon_goes_on_as_if_it_had_never_stopped(tmp_path):
    whole, _, _ = muon_trainer()
    losses = [step.loss for step in whole.run(muon_batch)]
    part, _, _ = muon_trainer(steps=3)
    for _ in part.run(muon_batch):
        pass
    part.save(tmp_path / "state", part_bytes=60_000)
    rest, net, ema = muon_trainer()
    rest.resume(tmp_path / "state")
    assert rest.step == 3
    for step in rest.run(muon_batch):
        assert torch.equal(step.loss, losses[step.step - 1])
    for name, tensor in whole._state().items():
        assert torch.equal(tensor, rest._state()[name]), name


def test_muon_asks_for_a_torch_that_has_it(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(ImportError, match="muon is 3.0 with torch .* expected torch 2.9"):
        muon_trainer()


def test_muon_asks_for_blocks_with_matrices():
    with refuses("muon is 2.0; expected 0, as this Ensemble has no matrices in blocks"):
        fit(nets(), data(), Recipe(muon=2.0))

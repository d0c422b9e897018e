"""Whether the pre-trained model knows the images it is fine-tuned on: its loss beside a linear filter's."""

import warnings

import pytest
import torch
from helpers import refuses

from dgtoy import vp
from dgtoy.checkpoint import write_safetensors
from dgtoy.dit import DiT
from dgtoy.pipeline import finetune
from dgtoy.pipeline.finetune import LatentTensors
from dgtoy.pipeline.objectives import FlowObjective, NoiseObjective

TINY = dict(input_size=8, patch_size=2, in_channels=3, hidden_size=16, depth=1, num_heads=2, num_classes=1)


class Filter:
    """Wiener's filter for white images of this variance, where an objective expects a network."""

    null = 1

    def __init__(self, variance, flow):
        self.variance, self.flow, self.abar = variance, flow, vp.Process().alphas_cumprod

    def predict(self, x, time, label):
        if self.flow:
            t = (time / 1000)[:, None, None, None]
            return x * (t - (1 - t) * self.variance) / ((1 - t) ** 2 * self.variance + t**2)
        a = self.abar[time][:, None, None, None].float()
        return x * (1 - a).sqrt() / (a * self.variance + 1 - a)


@pytest.mark.parametrize("variance", [0.25, 4.0])
@pytest.mark.parametrize("flow", [True, False])
def test_the_linear_loss_is_what_the_filter_has(flow, variance, rng, monkeypatch):
    """Measured: white images, noised at given times, through the filter written out."""
    objective, n = FlowObjective() if flow else NoiseObjective(), 500
    x0 = variance**0.5 * torch.randn(n, 3, 8, 8, generator=rng)
    label, eps = torch.zeros(n, dtype=torch.long), torch.randn(x0.shape, generator=rng)
    error = lambda out, x0, x, time, eps, process: ((out - eps).square().flatten(1).mean(1), None, None)
    monkeypatch.setattr(vp, "training_loss", error)
    power = torch.tensor(variance)
    for time in torch.tensor([0.2, 0.5, 0.8]) if flow else torch.tensor([100, 500, 900]):
        measured = objective(Filter(variance, flow), x0, label, time.expand(n), eps).item()
        assert objective.linear(power, time).item() == pytest.approx(measured, rel=0.03)
    times = objective.times(1000, torch.Generator().manual_seed(0))
    expected = torch.stack([objective.linear(power, time) for time in times]).mean().item()
    assert finetune.linear_loss(LatentTensors(x0, label, 1), objective, n) == pytest.approx(
        expected, rel=0.03
    )


def base(path, spoil=None):
    """A checkpoint of a flow that knows nothing: its weights are as they were drawn."""
    state = DiT(**TINY, learn_sigma=False, flow=True).state_dict()
    if spoil:
        spoil(state)
    write_safetensors(path, state, {})
    return path


def test_images_that_the_pretrained_model_does_not_know_are_told(tmp_path, rng):
    smooth = torch.randn(64, 3, 1, 1, generator=rng).expand(-1, -1, 8, 8)  # a filter removes nearly all noise
    data = LatentTensors(smooth, torch.zeros(64, dtype=torch.long), 1)
    config = finetune.Config(steps=1, batch=16)
    with pytest.warns(UserWarning, match="denoises these images worse than a linear filter, .* hardly guide"):
        finetune.normal_loss(base(tmp_path / "p.safetensors"), data, config, num_heads=2, batches=2)


def test_photographs_are_known_to_the_model_of_photographs(rng):
    """Smooth pictures, as a stand-in for photographs: the shipped model beats the filter."""
    coarse = torch.rand(8, 3, 4, 4, generator=rng) * 2 - 1
    x0 = torch.nn.functional.interpolate(coarse, (64, 64), mode="bicubic").clamp(-1, 1)
    data = LatentTensors(x0, torch.zeros(8, dtype=torch.long), 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        finetune.normal_loss("photos64", data, finetune.Config(steps=1, batch=8), batches=2)


@pytest.mark.parametrize(
    "value, error, words",
    [
        (torch.nan, ValueError, "p.safetensors: x_embedder.proj.weight holds numbers that are not finite"),
        (1e38, FloatingPointError, "p.safetensors itself is nan; expected finite weights"),
    ],
)
def test_a_base_that_is_not_finite_is_refused_before_training(value, error, words, tmp_path, rng):
    path = base(tmp_path / "p.safetensors", lambda state: state["x_embedder.proj.weight"].fill_(value))
    data = LatentTensors(torch.randn(8, 3, 8, 8, generator=rng), torch.zeros(8, dtype=torch.long), 1)
    with refuses(words, error=error):
        finetune.normal_loss(path, data, finetune.Config(steps=1, batch=4), num_heads=2, batches=2)


def test_an_adapter_wider_than_the_network_is_refused(tmp_path):
    with refuses("rank is 1000000; expected at most 16, the network's width"):
        finetune.start(base(tmp_path / "p.safetensors"), 2, finetune.Config(rank=10**6), num_heads=2)

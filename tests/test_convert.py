"""Against diffusers: the network through a converter, and its DDPM and DDIM schedulers step for step."""

import copy

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTTransformer2DModel
from helpers import refuses
from test_dit import FILES, awake

from dgtoy import vp
from dgtoy.dit import VP, load_pretrained
from dgtoy.dit.convert import as_official, from_diffusers, to_diffusers

close = torch.testing.assert_close
SIZES = dict(in_channels=4, learn_sigma=True)


def inputs(n=4):
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(n, 4, 4, 4, generator=g),
        torch.tensor([0, 17, 500, 999])[:n],
        torch.tensor([0, 1, 2, 3])[:n],
    )


@pytest.mark.parametrize("learn_sigma", [True, False])
def test_the_converted_network_gives_the_same_outputs(learn_sigma):
    net, (x, t, y) = awake(**SIZES | dict(learn_sigma=learn_sigma)), inputs()
    with torch.no_grad():
        close(to_diffusers(net)(x, timestep=t, class_labels=y).sample, net(x, t, y), rtol=1e-4, atol=1e-5)


def test_a_network_that_predicts_velocity_is_refused():
    with refuses("net predicts velocity inside; expected a DiT of the official kind"):
        to_diffusers(awake(**SIZES, velocity=True))
    with refuses("net is a flow; expected a DiT of the official kind"):
        to_diffusers(awake(**SIZES, flow=True))


def test_positions_that_diffusers_could_not_hold_are_refused():
    """As of a network that was tuned at another resolution, its positions stretched."""
    net = awake(**SIZES)
    to_diffusers(copy.deepcopy(net).half())  # rounded ones are still DiT's
    net.pos_embed.mul_(0.9)
    with refuses("net has a pos_embed of its own"):
        to_diffusers(net)


def test_without_the_two_constants_it_does_not(tmp_path):
    net, (x, t, y) = awake(**SIZES), inputs()
    to_diffusers(net).save_pretrained(tmp_path)
    again = DiTTransformer2DModel.from_pretrained(tmp_path)
    with torch.no_grad():
        ours, theirs = net(x, t, y), again(x, timestep=t, class_labels=y).sample
        assert (ours - theirs).abs().max() > 1e-3
        close(as_official(again)(x, timestep=t, class_labels=y).sample, ours, rtol=1e-4, atol=1e-5)


def test_there_and_back_every_weight_is_the_same():
    net = awake(**SIZES)
    back = from_diffusers(to_diffusers(net))
    one, other = net.state_dict(), back.state_dict()
    assert (
        net.config == back.config
        and one.keys() == other.keys()
        and all(torch.equal(one[k], other[k]) for k in one)
    )


def test_the_official_file_goes_through_as_well():
    net = load_pretrained(FILES / "pretrained.pt", num_heads=4)
    model = to_diffusers(net)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([3, 800])
    with torch.no_grad():
        close(
            model(x, timestep=t, class_labels=torch.tensor([1000, 5])).sample,
            net(x, t, torch.tensor([1000, 5])),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize(
    "name, value",
    [
        ("activation_fn", "gelu"),
        ("norm_elementwise_affine", True),
        ("attention_bias", False),
        ("out_channels", 9),
    ],
)
def test_a_model_of_diffusers_that_computes_something_else_is_refused(name, value):
    sizes = dict(num_attention_heads=2, attention_head_dim=4, in_channels=3, num_layers=1, sample_size=4)
    with refuses(f"model has {name} {value!r}; expected"):
        from_diffusers(DiTTransformer2DModel(**sizes | {name: value}))


def test_models_of_another_kind_are_refused():
    with refuses("model is None; expected a DiTTransformer2DModel", error=TypeError):
        from_diffusers(None)
    with refuses("net is a Linear; expected a DiT", error=TypeError):
        to_diffusers(torch.nn.Linear(1, 1))


def test_blocks_that_disagree_are_refused():
    model = to_diffusers(awake(**SIZES))
    model.transformer_blocks[1].norm1.emb.timestep_embedder.linear_1.weight.data += 1
    with refuses(
        "model holds another weight in "
        "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight than in"
    ):
        from_diffusers(model)


def test_ddim_is_the_scheduler_of_diffusers():
    """10 steps, eta 0, the schedule's own spacing; the last step of diffusers with set_alpha_to_one ends at
    the clean image.
    """
    net, (x, _, y) = VP(awake(**SIZES)), inputs()
    scheduler = DDIMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, set_alpha_to_one=True, timestep_spacing="leading"
    )
    scheduler.set_timesteps(10)
    process, theirs = vp.Process(vp.strided(10)), x
    assert scheduler.timesteps.tolist() == process.times.flip(0).tolist()
    for t, ours in zip(scheduler.timesteps, vp.ddim(net.noise(y), x, process), strict=True):
        with torch.no_grad():
            theirs = scheduler.step(net.net(theirs, t.expand(4), y)[:, :4], t, theirs).prev_sample
        close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_ancestral_steps_are_the_scheduler_of_diffusers_with_learned_range():
    net, (x, _, y) = VP(awake(**SIZES)), inputs()
    scheduler = DDPMScheduler(
        beta_start=1e-4, beta_end=0.02, clip_sample=False, variance_type="learned_range"
    )
    scheduler.set_timesteps(1000)
    process = vp.Process()
    for i in (999, 400, 1):
        g = torch.Generator().manual_seed(i)
        noise = torch.randn(x.shape, generator=g)
        with torch.no_grad():
            out = net.net(x, torch.full((4,), i), y)
            theirs = scheduler.step(out, i, x, generator=torch.Generator().manual_seed(i)).prev_sample
        mean, log_variance = process.posterior(x, torch.full((4,), i), out)
        close(mean + (0.5 * log_variance).exp() * noise, theirs, rtol=1e-4, atol=1e-4)

import math

import numpy as np
import pytest
import torch
from helpers import refuses
from test_dit import FILES, META, awake, official, same  # noqa: F401  (a fixture)

from dgtoy import guided, heun, last, vp
from dgtoy.dit import VP, DiT
from dgtoy.dit.network import noise_of_velocity

NOISE = lambda x, t: x  # a network of this kind

close = torch.testing.assert_close
TINY = dict(input_size=4, patch_size=2, in_channels=3, hidden_size=16, depth=2, num_heads=2, num_classes=3)


@pytest.mark.parametrize("name", META["respacing"])
def test_respaced_times_are_the_official_ones(name):
    found = vp.strided(int(name[4:])) if name.startswith("ddim") else vp.respaced(int(name))
    assert found == META["respacing"][name]


@pytest.mark.parametrize("times", (vp.respaced, vp.strided))
def test_a_number_of_steps_is_a_whole_one_of_any_kind(times):
    assert times(torch.tensor(20)) == times(np.int64(20)) == times(20)
    for n in (20.0, None, "20", True, torch.ones(2)):
        with refuses("n is", "expected a whole number", error=TypeError):
            times(n)


def test_respaced_times_add_up_the_stride_as_the_official_code_does():
    """It rounds running sums: ten times 49.95, the middle of 21 steps, adds up to just below 499.5."""
    for n in range(2, 1001):
        at, stride, times = 0.0, 999 / (n - 1), []
        for _ in range(n):
            times.append(round(at))
            at += stride
        assert vp.respaced(n) == times


def test_betas_and_products_are_the_official_ones():
    betas, held = vp.linear_betas(), META["betas"]
    close(
        betas[[0, -1]], torch.tensor([held["first"], held["last"]], dtype=torch.float64), rtol=1e-12, atol=0
    )
    close(vp.Process().alphas_cumprod[-1].item(), held["alphas_cumprod_last"], rtol=1e-10, atol=0)


@pytest.mark.parametrize("channels", [3, 4])
def test_ancestral_sampling_gives_every_official_iterate(channels, official):  # noqa: F811
    golden, (main, _, guide) = official
    name = f"ddpm25_{channels}ch"
    model = vp.guided_noise(main, guide, 1.5, channels)
    found = list(
        vp.ancestral(model, golden[f"{name}_xT"], vp.Process(vp.respaced(25)), golden[f"{name}_noise"])
    )
    assert len(found) == 25
    for x, expected in zip(found, golden[f"{name}_x"], strict=True):
        same(x, expected, error=1e-4)  # rounding adds up over the steps


def test_ddim_gives_every_official_iterate(official):  # noqa: F811
    golden, (main, _, guide) = official
    found = list(vp.ddim(vp.guided_noise(main, guide, 1.5), golden["ddim10_xT"], vp.Process(vp.strided(10))))
    for x, expected in zip(found, golden["ddim10_x"], strict=True):
        same(x, expected, error=1e-4)  # rounding adds up over the steps


def test_the_training_loss_and_both_its_terms_are_the_official_ones(official):  # noqa: F811
    golden, (main, _, _) = official
    process, t = vp.Process(), golden["t"]
    x = process.noised(golden["x"], t, golden["train_noise"])
    for found, term in zip(
        vp.training_loss(main(x, t), golden["x"], x, t, golden["train_noise"], process),
        ("loss", "mse", "vb"),
        strict=True,
    ):
        close(found, golden[f"train_{term}"], rtol=1e-5, atol=0)
    assert t.min() == 0 and t.max() == 999  # both ends of the process are in the golden set


def test_the_variational_term_trains_the_variance_alone():
    process, i = vp.Process(), torch.tensor([5, 600])
    x0, eps = (torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    out = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    loss = lambda i: vp.training_loss(out, x0, process.noised(x0, i, eps), i, eps, process)
    vb = loss(i)[2]
    close(loss([5, 600])[2], vb)
    close(loss(5)[2][0], vb[0])
    gradient = torch.autograd.grad(vb.sum(), out)[0]
    assert not gradient[:, :3].any() and gradient[:, 3:].abs().min() > 0


def test_a_step_of_the_process_is_the_posterior_of_a_gaussian():
    """For x0 ~ N(0, 1) every x_t is N(0, 1): a^2 + b^2 + 2 a b abar^(1/2) + variance = 1."""
    process = vp.Process(vp.respaced(50))
    a, b, variance = (
        process.posterior_mean_coef1,
        process.posterior_mean_coef2,
        process.log_variance_min.exp(),
    )
    carried = a**2 + b**2 + 2 * a * b * process.alphas_cumprod.sqrt() + variance
    close(carried[1:], torch.ones(49, dtype=torch.float64))


def test_ddim_is_euler_in_the_units_of_the_other_samplers():
    """Scaled by sqrt(1 + sigma^2), DDIM's iterates are those of `euler` on the network as a denoiser."""
    from dgtoy import euler

    net = VP(awake(**TINY | dict(learn_sigma=True)).double().requires_grad_(False))
    process = vp.Process(vp.strided(10))
    sigmas = torch.cat([process.sigmas.flip(0), torch.zeros(1, dtype=torch.float64)])
    x_T = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    ours = list(euler(net.denoiser(1), x_T * (1 + sigmas[0] ** 2).sqrt(), sigmas))
    theirs = list(vp.ddim(net.noise(1), x_T, process))
    for x, y, sigma in zip(ours, theirs, sigmas[1:], strict=True):
        close(x / (1 + sigma**2).sqrt(), y, rtol=1e-5, atol=1e-5)  # the time enters the network in float32


def test_heun_and_ddim_reach_one_image_as_the_steps_grow():
    net = VP(awake(**TINY | dict(learn_sigma=True)).double().requires_grad_(False))
    x_T = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    distance = {}
    for n in (10, 50, 250):
        process = vp.Process(vp.strided(n))
        sigmas = torch.cat([process.sigmas.flip(0), torch.zeros(1, dtype=torch.float64)])
        one = last(heun(net.denoiser(1), x_T * (1 + sigmas[0] ** 2).sqrt(), sigmas))
        distance[n] = ((one - last(vp.ddim(net.noise(1), x_T, process))).norm() / one.norm()).item()
    assert distance[250] < distance[50] / 2 < distance[10] / 4


def test_the_denoiser_of_the_exact_noise_is_exact():
    """The true noise of one image x0 makes a denoiser that returns x0 at every level."""
    x0 = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    class Oracle(DiT):
        def forward(self, x, t, y):
            abar = vp.Process().alphas_cumprod.to(x)[t.round().long()].reshape(-1, 1, 1, 1)
            return torch.cat([(x - abar.sqrt() * x0) / (1 - abar).sqrt(), x], 1)

    net = VP(Oracle(**TINY).double())
    for sigma in vp.Process().sigmas[[0, 10, 500, 999]]:
        x = x0 + sigma * torch.randn(
            2, 3, 4, 4, generator=torch.Generator().manual_seed(6), dtype=torch.float64
        )
        close(net.denoiser(0)(x, sigma), x0.expand(2, -1, -1, -1), rtol=1e-5, atol=1e-6)
    final = last(
        vp.ddim(net.noise(0), torch.randn(2, 3, 4, 4, dtype=torch.float64), vp.Process(vp.strided(20)))
    )
    close(final, x0.expand(2, -1, -1, -1), rtol=1e-5, atol=1e-6)


def test_times_of_noise_levels_invert_the_table_and_stop_at_its_ends():
    times = torch.arange(0, 1000, 37)
    close(vp.sigma_to_t(vp.Process().sigmas[times]), times.float(), rtol=0, atol=1e-3)
    assert vp.sigma_to_t(torch.tensor(1e-4)) == 0 and vp.sigma_to_t(torch.tensor(1e4)) == 999
    between = vp.sigma_to_t(torch.linspace(0.02, 150, 400))
    assert bool((between.diff() > 0).all())


def test_guided_noise_guides_noise_and_keeps_the_variance():
    main, guide = (lambda x, t, k=k: torch.cat([k * x, 10 * k * x], 1) for k in (1.0, 3.0))
    x, t = torch.ones(2, 4, 2, 2), torch.tensor([3, 900])
    out = vp.guided_noise(main, guide, 1.5)(x, t)
    close(out, torch.cat([3 + 1.5 * (1 - 3) * x, 10 * x], 1))
    close(vp.guided_noise(main, guide, 1.5, channels=3)(x, t)[:, 3], x[:, 0])
    inside = vp.guided_noise(main, guide, 1.5, interval=(0.0, 1.0))(x, t)
    close(inside[:, 0, 0, 0], torch.tensor([0.0, 1.0]))  # t = 3 lies in it, t = 900 does not


def test_outside_the_interval_the_guide_is_not_called():
    def never(x, t):
        raise AssertionError("called")

    main = lambda x, t: torch.cat([x, x], 1)
    vp.guided_noise(main, never, 1.5, interval=(0.0, 1.0))(torch.ones(2, 1, 2, 2), torch.tensor([900, 950]))
    vp.guided_noise(main, never, 1.0)(torch.ones(2, 1, 2, 2), torch.tensor([9, 950]))


def test_labels_and_devices_pass_through_the_adapter():
    net = VP(awake(**TINY | dict(learn_sigma=True)).requires_grad_(False))
    x, label = torch.randn(3, 3, 4, 4), torch.tensor([0, 1, 2])
    whole = net.denoiser(label)(x, 2.0)
    for i in range(3):
        close(whole[i : i + 1], net.denoiser(i)(x[i : i + 1], 2.0), rtol=1e-4, atol=1e-4)
    assert net.with_classes(7).null == 7 and net.clone().net is not net.net
    close(
        guided(net.denoiser(0), net.denoiser(net.null), 1.0)(x, 2.0), net.denoiser(0)(x, 2.0), rtol=0, atol=0
    )


def test_bad_input():
    with refuses("n is 0; expected 1 to 1000 steps"):
        vp.respaced(0)
    with refuses("n is 999; no whole stride"):
        vp.strided(999)
    with refuses("times is [5, 5, 7]"):
        vp.Process([5, 5, 7])
    with refuses("expected ascending whole numbers from 0 to 999"):
        vp.Process([0, 1000])
    with refuses("expected ascending whole numbers from 0 to 999"):
        vp.Process([0.5, 1.5])
    with refuses("times is [False, True]"):
        vp.Process([False, True])
    with refuses("times is [5]..."):
        vp.Process(5)
    with refuses("times is None; expected numbers", error=TypeError):
        vp.Process(None)
    process, x = vp.Process([3, 500]), torch.ones(2, 1, 1, 1)
    with refuses("i is [0, -1]...; expected indices from 0 to 1"):  # -1 is no last one
        process.noised(x, torch.tensor([0, -1]), x)
    with refuses("i is [0, 2]...; expected indices from 0 to 1"):
        process.x0_hat(x, torch.tensor([0, 2]), x)
    with refuses("i has shape (3,); expected () or (2,)"):
        process.noised(x, torch.tensor([0, 1, 1]), x)
    with refuses("process is [3]; expected a Process", error=TypeError):
        vp.ddim(lambda x, t: x, x, [3])
    with refuses("model is None; expected a function", error=TypeError):
        vp.ancestral(None, x, process)
    with refuses("model gives 3; expected"):
        next(vp.ddim(lambda x, t: 3, x, process))
    with refuses("model gives a Tensor of torch.float32, shape (2, 1, 1, 1); expected (B, 2C, ...)"):
        vp.training_loss(x, x, x, torch.tensor([0, 1]), x, process)
    with refuses("n is 2.5; expected a whole number", error=TypeError):
        vp.respaced(2.5)
    for sigma in (-1.0, torch.tensor([1.0, math.nan])):
        with refuses("expected noise levels >= 0"):
            vp.sigma_to_t(sigma)
    with refuses("t is nan; expected times from 0 to 999"):
        vp.t_to_sigma(torch.tensor([1.0, math.nan]))
    with refuses("w is nan"):
        vp.guided_noise(NOISE, NOISE, math.nan)
    with refuses("channels is 3; expected 1 to 1"):
        vp.guided_noise(NOISE, NOISE, 1.5, 3)(torch.ones(1, 1, 1, 1), torch.tensor([1]))
    for t in ([-1, 0], [0, 1000], [0.5, 1.0], [math.nan, 0.0]):
        with refuses("t is [", "expected whole times from 0 to 999"):
            vp.guided_noise(NOISE, NOISE, 1.5)(x, torch.tensor(t))
    with refuses("t has shape (3,); expected () or (2,)"):
        vp.guided_noise(NOISE, NOISE, 1.5)(x, torch.tensor([0, 1, 1]))


def test_vp_needs_no_more_than_a_file_of_the_official_kind():
    from dgtoy.dit import load_pretrained

    net = VP(load_pretrained(FILES / "pretrained.pt", num_heads=4))
    assert net.null == 1000 and net.denoiser(net.null)(torch.randn(1, 4, 8, 8), 1.0).shape == (1, 4, 8, 8)


def test_a_training_time_and_its_noise_level_are_each_others_inverse():
    sigmas = vp.Process().sigmas
    close(vp.t_to_sigma(torch.arange(1000)).double(), sigmas, rtol=1e-6, atol=0)
    t = torch.tensor([0.0, 0.25, 17.5, 500.75, 999.0])
    close(vp.sigma_to_t(vp.t_to_sigma(t)), t, rtol=0, atol=1e-3)
    assert vp.t_to_sigma(7) == vp.t_to_sigma(torch.tensor(7.0)) == sigmas[7].float()
    assert vp.t_to_sigma(torch.tensor(-3.0)) == vp.t_to_sigma(torch.tensor(0.0))


def test_a_network_that_predicts_velocity_gives_the_noise_that_follows_from_it():
    """With v = sqrt(abar) eps - sqrt(1 - abar) x0 the noise that comes out is eps itself."""
    g, process, t = torch.Generator().manual_seed(0), vp.Process(), torch.tensor([3, 400, 998])
    x0, eps, variance = torch.randn(3, 3, 3, 4, 4, generator=g, dtype=torch.float64)
    abar = process.alphas_cumprod[t][:, None, None, None]
    x, v = process.noised(x0, t, eps), abar.sqrt() * eps - (1 - abar).sqrt() * x0
    close(
        noise_of_velocity(torch.cat([v, variance], 1), x, t), torch.cat([eps, variance], 1), rtol=0, atol=1e-5
    )
    plain, other = (DiT(**TINY, velocity=k) for k in (False, True))
    other.load_state_dict(plain.state_dict() | {"velocity": torch.ones(())})
    label = torch.tensor([0, 1, 2])
    close(other(x.float(), t, label), noise_of_velocity(plain(x.float(), t, label), x.float(), t))
    assert other.config == plain.config | {"velocity": True} and "velocity" not in plain.config


def test_a_fresh_velocity_network_is_the_denoiser_of_unit_gaussian_data():
    """It gives v = 0, so D(x, sigma) = x / (1 + sigma^2): the data are then a Gaussian of variance 1."""
    net, x = (
        VP(DiT(**TINY, velocity=True)),
        3 * torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    for sigma in (0.05, 1.0, 30.0):
        close(net.denoiser(1)(x, sigma), x / (1 + sigma**2), rtol=1e-4, atol=1e-4)

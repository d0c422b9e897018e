"""Relatives of guidance, each against its paper's formula written out in the paper's own variables."""

import math

import pytest
import torch
from helpers import Counted, gaussian, random_labelled, refuses
from hypothesis import given
from hypothesis import strategies as st

from dgtoy import Ensemble, calibrate, domain_guidance, dpmpp_2m, euler, guided, karras, last, relatives
from dgtoy.guidance import Run

close = torch.testing.assert_close
TARGET, SOURCE = random_labelled(seed=1), random_labelled(seed=2)
MAIN, GUIDE = TARGET.denoiser(0), SOURCE.denoiser(SOURCE.null)
X = 2 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMAS = karras(10, 0.05, 20.0)
weights = st.floats(-3, 5)
METHODS = {
    "apg": relatives.apg,
    "APG with momentum": lambda main, guide, w, **o: relatives.apg(main, guide, w, momentum=-0.5, **o),
    "APG within a radius": lambda main, guide, w, **o: relatives.apg(main, guide, w, radius=0.3, **o),
    "CFG-Zero*": relatives.cfg_zero_star,
}


@pytest.mark.parametrize("name", METHODS)
def test_each_keeps_the_contract_of_guidance(name):
    method = METHODS[name]
    main, guide = Counted(MAIN), Counted(GUIDE)
    assert torch.equal(method(main, guide, 1.0)(X, 0.7), MAIN(X, 0.7)) and guide.calls == 0
    assert torch.equal(method(main, guide, 3.0, interval=(1.0, 2.0))(X, 0.7), MAIN(X, 0.7))
    assert (main.calls, guide.calls) == (2, 0)
    assert method(main, guide, 3.0)(X, 0.7).shape == X.shape and (main.calls, guide.calls) == (3, 1)
    close(method(MAIN, MAIN, 2.0)(X, 0.7), MAIN(X, 0.7))
    w = torch.linspace(0.5, 3, 6)
    rows = torch.cat([method(MAIN, GUIDE, float(v))(X[i : i + 1], 0.7) for i, v in enumerate(w)])
    close(method(MAIN, GUIDE, w)(X, 0.7), rows)
    with refuses("w is nan"):
        method(MAIN, GUIDE, math.nan)
    with refuses("guide is None", error=TypeError):
        method(MAIN, None, 2.0)
    with refuses("still_above is nan"):
        relatives.cfg_zero_star(MAIN, GUIDE, 2.0, still_above=math.nan)
    with refuses("shape (6, 2)", "shape (1, 2); expected tensors of one shape"):
        method(MAIN, lambda x, sigma: GUIDE(x, sigma)[:1], 2.0)(X, 0.7)


@pytest.mark.parametrize("name", METHODS)
def test_each_has_a_gradient_whatever_the_update(name):
    """Where models agree the update is 0, and where an estimate is 0 it has no direction."""
    half, nothing = lambda x, sigma: x / 2, lambda x, sigma: 0 * x
    for main, guide in ((MAIN, GUIDE), (half, half), (half, nothing), (nothing, half)):
        x = X.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(METHODS[name](main, guide, 2.0)(x, 0.7).sum(), x)
        assert gradient.isfinite().all()


# adaptive projected guidance


def apg_of_the_paper(conditional, unconditional, w, average, eta, r, beta):
    """Algorithm 1 of Sadat et al. 2024, sample by sample.  -> the estimate, the new average"""
    average = conditional - unconditional + beta * average
    found = []
    for d, c in zip(average, conditional):
        if r and d.norm() > r:
            d = d * (r / d.norm())
        unit = c / c.norm()
        parallel = torch.dot(d, unit) * unit
        found.append(c + (w - 1) * (d - parallel + eta * parallel))
    return torch.stack(found), average


@given(weights, st.floats(-1, 2), st.floats(0.1, 3))
def test_apg_is_its_papers_algorithm(w, eta, r):
    expected, _ = apg_of_the_paper(MAIN(X, 0.7), GUIDE(X, 0.7), w, 0.0, eta, r, 0.0)
    close(relatives.apg(MAIN, GUIDE, w, eta, r)(X, 0.7), expected)


def test_apg_remembers_the_update_of_the_level_before_and_forgets_it_in_a_new_run():
    D = relatives.apg(MAIN, GUIDE, 2.0, momentum=-0.5)
    for x in (X, X, X[:3]):  # the second run begins at a higher level
        average = 0.0
        for sigma in (5.0, 1.0, 0.3):
            expected, average = apg_of_the_paper(
                MAIN(x, sigma), GUIDE(x, sigma), 2.0, average, 0.0, None, -0.5
            )
            close(D(x, sigma), expected)


def test_apg_is_that_of_a_known_implementation():
    theirs = pytest.importorskip("diffusers.guiders.adaptive_projected_guidance")
    for eta, r in ((0.0, 0.5), (0.3, 0.0), (1.0, 2.0)):
        ours, buffer = relatives.apg(MAIN, GUIDE, 2.5, eta, r or math.inf, -0.5), theirs.MomentumBuffer(-0.5)
        for sigma in (5.0, 1.0, 0.3):
            expected = theirs.normalized_guidance(MAIN(X, sigma), GUIDE(X, sigma), 2.5, buffer, eta, r, True)
            plain = MAIN(X, sigma) + (expected - MAIN(X, sigma)) * (1.5 / 2.5)  # theirs counts w from 0
            close(ours(X, sigma), plain)


def test_apg_without_its_parts_is_guidance_and_takes_any_guide():
    D = relatives.apg(MAIN, GUIDE, 1.7, eta=1.0)
    close(D(X, 0.7), domain_guidance(MAIN, GUIDE, 1.7)(X, 0.7))
    assert torch.allclose(
        ((relatives.apg(MAIN, GUIDE, 3)(X, 0.7) - MAIN(X, 0.7)) * MAIN(X, 0.7)).sum(1), X.new_zeros(6)
    )
    for bad, words in ((dict(radius=0), "radius is 0"), (dict(eta=math.inf), "eta is inf")):
        with refuses(words):
            relatives.apg(MAIN, GUIDE, 2.0, **bad)
    for axes in ((0,), (5,), (), "a", 1.5):  # 0 would mix the samples
        with refuses("axes is", "expected axes of one sample of x (6, 2)"):
            relatives.apg(MAIN, GUIDE, 2.0, axes=axes)(X, 0.7)
    for method in (relatives.apg, relatives.cfg_zero_star):  # torch sums over all axes where it is given none
        with refuses("axes is ()", "expected axes of one sample of x (6,)"):
            method(lambda x, sigma: x / 2, lambda x, sigma: x / 3, 2.0)(X[:, 0], 0.7)


def test_a_sample_of_an_ensemble_is_its_last_axis():
    x = torch.stack([X, X.flip(0), X + 1])  # (S, n, 2)
    for method in METHODS.values():
        D = method(MAIN, GUIDE, 2.0, axes=(-1,))
        close(D(x, 0.7), torch.stack([method(MAIN, GUIDE, 2.0)(seed, 0.7) for seed in x]))


@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_neither_overflows_nor_changes(dtype):
    large = (
        torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 30
    )  # squares add up to 1e7
    c, u = lambda x, sigma: large.to(x), lambda x, sigma: (large + large.roll(1, 3)).to(x)
    for method in METHODS.values():
        exact, half = (
            method(c, u, 2.0)(torch.zeros(2, 3, 64, 64, dtype=t), 1.0) for t in (torch.float32, dtype)
        )
        assert half.dtype == dtype
        close(half.float(), exact, rtol=0.05, atol=1.0)


def test_a_run_begins_at_a_level_that_is_not_lower_or_with_another_shape():
    run = Run()
    assert [run.begins(X, s) for s in (3.0, 2.0, 2.0, 1.0)] == [True, False, True, False]
    assert run.begins(X[:2], 0.5) and not run.begins(X[:2], 0.4)
    levels = torch.linspace(1, 3, len(X))  # of several the highest counts
    assert run.begins(X, levels) and not run.begins(X, levels / 2)
    assert run.begins(X, torch.cat([levels[:1] / 9, levels[1:] / 2]))


# CFG-Zero*


def test_cfg_zero_star_is_the_flow_of_its_paper():
    """Euler in t on x_t = (1 - t) x0 + t eps, the first step still: Fan et al. 2025, algorithm 1."""
    w, t = 2.3, SIGMAS / (1 + SIGMAS)
    x_T = SIGMAS[0] * X

    def velocity(D, x, t):
        x0_hat = D(x / (1 - t), t / (1 - t))
        return (x - x0_hat) / t  # eps - x0

    x = x_T * (1 - t[0])
    for i, (now, then) in enumerate(zip(t, t[1:])):
        v, u = velocity(MAIN, x, now), velocity(GUIDE, x, now)
        s = (v * u).sum(1, keepdim=True) / (u * u).sum(1, keepdim=True)
        v_hat = 0 * v if i == 0 else (1 - w) * s * u + w * v
        x = x + (then - now) * v_hat
    D = relatives.cfg_zero_star(MAIN, GUIDE, w, still_above=float(SIGMAS[1]))
    close(last(euler(D, x_T, SIGMAS)), x)


def test_the_scale_of_cfg_zero_star_is_that_of_a_known_implementation():
    theirs = pytest.importorskip("diffusers.guiders.classifier_free_zero_star_guidance")
    sigma, w = 0.7, 2.0
    velocity = lambda D: (X - (1 + sigma) * D(X, sigma)) / sigma
    v, u = velocity(MAIN), velocity(GUIDE)
    s = theirs.cfg_zero_star_scale(v, u)
    close(velocity(relatives.cfg_zero_star(MAIN, GUIDE, w)), s * u + w * (v - s * u), rtol=1e-5, atol=1e-5)


def test_levels_above_the_bound_stay_still_row_by_row():
    sigma = torch.tensor([5.0, 0.5] * 3, dtype=torch.float64)
    D = relatives.cfg_zero_star(MAIN, GUIDE, 2.0, still_above=1.0)
    close(D(X, sigma)[::2], X[::2] / 6)
    close(D(X, sigma)[1::2], relatives.cfg_zero_star(MAIN, GUIDE, 2.0)(X[1::2], 0.5))


# frequency-decoupled guidance

IMAGES = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
SHARP, SOFT = gaussian(0.0, 0.5).denoise, gaussian(0.5, 2.0).denoise
image_denoiser = lambda D: lambda x, sigma: D(x.flatten()[:, None], sigma).view_as(x)
SHARP, SOFT = image_denoiser(SHARP), image_denoiser(SOFT)


def pyramid(x, levels):
    """A Laplacian pyramid: bands from fine to coarse, each the difference to what the next level holds."""
    bands = []
    for _ in range(levels):
        coarse = shrunk(x)
        bands.append(x - grown(coarse, x.shape[2:]))
        x = coarse
    return [*bands, x]


def joined(bands):
    x = bands[-1]
    for band in bands[-2::-1]:
        x = band + grown(x, band.shape[2:])
    return x


def blur(x):
    """By index, with mirrored edges."""
    taps, out = (1, 4, 6, 4, 1), x
    for axis in (2, 3):
        n = out.shape[axis]
        mirror = lambda i: -i if i < 0 else 2 * (n - 1) - i if i >= n else i
        rows = [sum(t * out.select(axis, mirror(i + k - 2)) for k, t in enumerate(taps)) for i in range(n)]
        out = torch.stack(rows, axis) / 16
    return out


def shrunk(x):
    return torch.nn.functional.avg_pool2d(blur(x), 2)  # bilinear halving of even sizes


def grown(x, size):
    return blur(torch.nn.functional.interpolate(x, size=tuple(size), mode="bilinear"))


@pytest.mark.parametrize("levels", (1, 2))
def test_frequency_decoupled_guidance_weighs_the_bands_of_a_laplacian_pyramid(levels):
    """Sadat et al. 2025, algorithm 2: each band of the conditional pyramid is guided, then all are joined."""
    w_low, w_high = 1.2, 3.0
    c, u = (pyramid(D(IMAGES, 0.7), levels) for D in (SHARP, SOFT))
    bands = [b + (w_high if k < levels else w_low) * (a - b) for k, (a, b) in enumerate(zip(c, u))]
    D = relatives.frequency_decoupled(SHARP, SOFT, w_low, w_high, levels)
    close(D(IMAGES, 0.7), joined(bands))


def test_equal_weights_of_both_bands_are_guidance_and_none_is_the_main_model():
    decoupled = lambda *w, guide=SOFT, **o: relatives.frequency_decoupled(SHARP, guide, *w, **o)(IMAGES, 0.7)
    close(decoupled(2.0, 2.0), guided(SHARP, SOFT, 2.0)(IMAGES, 0.7))
    guide = Counted(SOFT)
    close(decoupled(1.0, 1.0, guide=guide), SHARP(IMAGES, 0.7))
    close(decoupled(2.0, 3.0, guide=guide, interval=(1.0, 2.0)), SHARP(IMAGES, 0.7))
    assert guide.calls == 0 and decoupled(2.0, 3.0, guide=guide) is not None and guide.calls == 1
    for size, levels in (((8, 8), 1), ((7, 6), 2), ((12, 15), 3)):  # the least, and odd ones
        close(relatives.low_pass(torch.ones(1, 1, *size), levels), torch.ones(1, 1, *size))
    with refuses("x has shape (6, 2); expected images"):
        relatives.frequency_decoupled(MAIN, GUIDE, 1.0, 2.0)(X, 0.7)
    with refuses("x has shape (1, 1, 5, 8); expected images", "at least 6 pixels"):
        relatives.low_pass(torch.ones(1, 1, 5, 8), 2)
    with refuses("levels is -1; expected 0 or more"):
        relatives.low_pass(IMAGES, -1)


# the guide, between two models


def test_interpolated_weights_go_from_one_network_to_the_other():
    a, b = (Ensemble.of([seed], num_classes=3, width=8) for seed in (0, 1))
    table = {**b.params, "table": torch.ones(2), "count": torch.tensor(3)}
    for share, end in ((0.0, a), (1.0, b)):
        for name, p in relatives.interpolated(a.params, table, share).items():
            close(p, end.params[name].detach() if name in end.params else table[name])
    middle = relatives.interpolated(a.params, table, 0.25)
    name = next(iter(a.params))
    close(middle[name], (0.75 * a.params[name] + 0.25 * b.params[name]).detach())
    assert middle["table"].data_ptr() != table["table"].data_ptr()
    with refuses("share is nan"):
        relatives.interpolated(a.params, b.params, math.nan)
    with refuses("share no tensor"):
        relatives.interpolated({}, b.params, 0.5)
    with refuses("pretrained holds 3 in step; expected tensors", error=TypeError):
        relatives.interpolated(dict(step=3), b.params, 0.5)


# CFG++


def test_cfg_plus_plus_puts_the_guides_noise_back():
    """Chung et al. 2024, algorithm 2, in the paper's own variables: abar, and DDIM on x_t."""
    strength, abar = 0.6, 1 / (1 + SIGMAS**2)
    x = SIGMAS[0] * X * abar[0].sqrt()
    for now, then in zip(abar, abar[1:]):
        sigma = (1 / now - 1).sqrt()
        eps_c, eps_u = ((x / now.sqrt() - D(x / now.sqrt(), sigma)) / sigma for D in (MAIN, GUIDE))
        eps = eps_u + strength * (eps_c - eps_u)
        x0_hat = (x - (1 - now).sqrt() * eps) / now.sqrt()
        x = then.sqrt() * x0_hat + (1 - then).sqrt() * eps_u
    w = relatives.cfg_plus_plus(strength, SIGMAS)
    close(last(euler(guided(MAIN, GUIDE, w), SIGMAS[0] * X, SIGMAS)), x)
    single = last(euler(guided(MAIN, GUIDE, w), (SIGMAS[0] * X).float(), SIGMAS))
    close(single.double(), x, rtol=1e-3, atol=1e-3)
    with refuses("sigma is 0.7; expected a level of the schedule"):
        guided(MAIN, GUIDE, w)(X, 0.7)


# self-consistency

LEVELS = torch.tensor([5.0, 2.0, 0.8, 0.3])
CHOICE = torch.tensor([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])


@pytest.mark.parametrize("share", (1.0, 0.5, 0.4))
def test_self_consistent_weights_complete_an_unfinished_model_and_leave_an_exact_one(share):
    g = torch.Generator().manual_seed(0)
    data = TARGET.given(0).sample(600, generator=g).double()
    unfinished = guided(MAIN, GUIDE, share)
    found = relatives.self_consistent(unfinished, GUIDE, data, LEVELS, CHOICE, steps=8, generator=g)
    assert (found.weights == 1 / share).all()
    levels = torch.tensor([1.0, 0.5])
    assert (calibrate(unfinished, GUIDE, data, levels, generator=g).weights * share - 1).abs().max() < 0.2


def test_a_stepwise_weight_is_constant_between_its_levels():
    w = relatives.Stepwise(LEVELS, torch.tensor([1.0, 2.0, 3.0]))
    asked = torch.tensor([9.0, 5.0, 2.1, 2.0, 0.9, 0.8, 0.4, 0.1])
    assert w(asked).tolist() == [1, 1, 1, 2, 2, 3, 3, 3] and w(torch.tensor(3.0)) == 1
    assert w == w and w != relatives.Stepwise(LEVELS, torch.tensor([1.0, 2.0, 3.0]))
    x0 = last(dpmpp_2m(guided(MAIN, GUIDE, w), SIGMAS[0] * X, SIGMAS))
    assert x0.isfinite().all()
    for sigmas, weights in ((LEVELS.flip(0), [1.0, 2.0, 3.0]), (LEVELS, [1.0, 2.0])):
        with refuses("expected" if len(weights) == 2 else "must decrease"):
            relatives.Stepwise(sigmas, torch.tensor(weights))
    with refuses("weights is [1.0, nan, 2.0]; expected finite numbers"):
        relatives.Stepwise(LEVELS, [1.0, math.nan, 2.0])


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32, torch.half, torch.bfloat16))
def test_each_step_of_a_sampler_has_its_own_weight_whatever_the_precision(dtype):
    """The levels reach a weight rounded to the precision of x, half of them upward."""
    x, asked = SIGMAS[0].to(dtype) * torch.ones(1, 2, dtype=dtype), []
    by_step = relatives.Stepwise(SIGMAS, torch.arange(10.0))
    for w in (by_step, relatives.cfg_plus_plus(1.0, SIGMAS)):
        noted = lambda sigma: asked.append(float(w(sigma))) or 1.5
        last(euler(guided(lambda x, sigma: x / 2, lambda x, sigma: x / 3, noted), x, SIGMAS))
    assert asked[:10] == list(range(10))
    close(torch.tensor(asked[10:], dtype=torch.float64), SIGMAS[:-1] / (SIGMAS[:-1] - SIGMAS[1:]))
    strength = torch.tensor(1.0)
    with torch.device("meta"):  # the default device changes nothing
        w = relatives.cfg_plus_plus(strength, SIGMAS)
    assert w(SIGMAS[9]) == 1


def test_self_consistency_refuses_what_it_cannot_use():
    found = lambda data=X, sigmas=LEVELS, weights=CHOICE, **o: relatives.self_consistent(
        MAIN, GUIDE, data, sigmas, weights, **o
    )
    with refuses("sigmas ends at 0"):
        found(sigmas=SIGMAS)
    with refuses("data and weights have shapes (1, 2), (6,)"):
        found(data=X[:1])
    with refuses("weights is [1.0, nan]"):
        found(weights=torch.tensor([1.0, math.nan]))
    with refuses("steps is 0"):
        found(steps=0)
    with refuses("follows"):
        found(sigmas=LEVELS.flip(0))

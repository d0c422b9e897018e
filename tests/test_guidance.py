import math

import pytest
import torch
from helpers import Counted, gaussian, random_labelled, random_mixture, refuses
from hypothesis import given
from hypothesis import strategies as st

from dgtoy import (
    GaussianMixture,
    autoguidance,
    blurred,
    cfg,
    domain_guidance,
    guided,
    heun,
    karras,
    last,
    plane,
    reused,
    theory,
)

close = torch.testing.assert_close
X = torch.tensor([[-2.0], [-0.3], [0.0], [1.5]], dtype=torch.float64)
MANY = torch.randn(999, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WIDE, NARROW, CLASS = gaussian(0.0, 3.0).denoise, gaussian(1.0, 0.5).denoise, gaussian(1.5, 0.2).denoise
weights = st.floats(-5, 5)
levels = st.floats(0.01, 50)


def counted():
    """A main model and a guide, each counting its calls."""
    return Counted(NARROW), Counted(WIDE)


@pytest.mark.parametrize("method", (guided, domain_guidance, autoguidance))
@given(weights, levels)
def test_guidance_is_its_formula(method, w, sigma):
    close(method(NARROW, WIDE, w)(X, sigma), WIDE(X, sigma) + w * (NARROW(X, sigma) - WIDE(X, sigma)))
    assert torch.equal(method(NARROW, WIDE, w, (60, 70))(X, sigma), NARROW(X, sigma))


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_rows_at_w_0_and_1_are_the_models_bit_for_bit(dtype):
    """torch.lerp is exact at both ends, so weights that differ by sample need no special case."""
    x, w = MANY.to(dtype), torch.tensor([0.0, 1.0, 1.7]).repeat(333)
    out, main, guide = guided(NARROW, WIDE, w)(x, 0.5), NARROW(x, 0.5), WIDE(x, 0.5)
    assert torch.equal(out[::3], guide[::3]) and torch.equal(out[1::3], main[1::3])
    assert out.dtype == dtype and not torch.isclose(out[2::3], main[2::3]).all()


def test_a_weight_for_each_sample_guides_row_by_row():
    w = torch.tensor([0.0, 1.0, 1.5, -2.0])
    rows = torch.cat([guided(NARROW, WIDE, float(v))(X[i : i + 1], 0.7) for i, v in enumerate(w)])
    close(guided(NARROW, WIDE, w)(X, 0.7), rows)
    corners = torch.cat([plane(WIDE, NARROW, CLASS, float(v), 1)(X[i : i + 1], 0.7) for i, v in enumerate(w)])
    close(plane(WIDE, NARROW, CLASS, w, 1)(X, 0.7), corners)
    close(guided(NARROW, WIDE, torch.tensor(1.5))(X, 0.7), guided(NARROW, WIDE, 1.5)(X, 0.7))


def test_what_is_not_finite_stays_in_the_rows_that_use_it():
    """0 times NaN is NaN: where a weight is 1 the guide does not count, where it is 0 the main model."""
    broken = lambda x, sigma: torch.full_like(x, math.nan)
    w = torch.tensor([0.0, 1.0, 1.5, 1.0])
    assert guided(NARROW, broken, w)(X, 0.7).isnan().flatten().tolist() == [True, False, True, False]
    assert guided(broken, WIDE, w)(X, 0.7).isnan().flatten().tolist() == [False, True, True, True]
    on_the_plane = plane(broken, WIDE, NARROW, w, 1.5)(X, 0.7)
    assert on_the_plane.isnan().flatten().tolist() == [True, False, True, False]


def test_weights_for_another_number_of_samples_are_refused_before_any_call():
    main, guide = counted()
    with refuses("w has shape (3,)", "() or (4,)", "(4, 1)"):
        guided(main, guide, torch.ones(3))(X, 0.7)
    with refuses("b has shape (3,)"):
        plane(guide, guide, main, 1.0, torch.ones(3))(X, 0.7)
    assert main.calls == guide.calls == 0


def test_the_ends_of_the_interval_count_in_single_precision_too():
    lo, hi = 0.1, 1.1  # neither is a number in float32: one rounds up, the other up as well or down
    D = guided(NARROW, WIDE, 3.0, (lo, hi))
    for sigma in (lo, hi):
        for level in (torch.tensor(sigma), torch.full((4,), sigma)):
            assert not torch.isclose(D(X.float(), level), NARROW(X.float(), level)).any()


def test_networks_of_two_precisions_meet_in_the_finer():
    half = lambda x, sigma: WIDE(x, sigma).half()
    for main, guide in ((NARROW, half), (half, NARROW)):
        found = guided(main, guide, 1.5)(X, 0.7)
        assert found.dtype == torch.float64
        close(found, guide(X, 0.7) + 1.5 * (main(X, 0.7).double() - guide(X, 0.7)))


@pytest.mark.parametrize("w, D, calls", [(1, NARROW, (1, 0)), (0.0, WIDE, (0, 1))])
def test_at_w_0_and_1_one_model_alone_is_called_and_returned_bit_for_bit(w, D, calls):
    main, guide = counted()
    assert torch.equal(guided(main, guide, w)(X, 0.7), D(X, 0.7))
    assert (main.calls, guide.calls) == calls


@pytest.mark.parametrize(
    "sigma, calls",
    [(0.1, 0), (0.2, 1), (0.5, 1), (1.0, 1), (1.1, 0), (torch.tensor([0.1, 0.15, 1.1, 20.0]), 0)],
)
def test_outside_the_interval_the_guide_is_not_called(sigma, calls):
    main, guide = counted()
    out = guided(main, guide, 3.0, interval=(0.2, 1.0))(X, sigma)
    assert guide.calls == calls and main.calls == 1
    close(out, guided(NARROW, WIDE, 3.0)(X, sigma) if calls else NARROW(X, sigma))


@given(levels)
def test_outside_the_interval_the_main_model_is_returned_bit_for_bit(sigma):
    for interval in ((sigma * 1.1, math.inf), (0.0, sigma * 0.9)):
        assert torch.equal(guided(NARROW, WIDE, 2.5, interval)(X, sigma), NARROW(X, sigma))


@given(weights, st.floats(0, 10), st.floats(0.1, 20))
def test_a_level_for_each_sample_is_guided_row_by_row(w, lo, width):
    D = guided(NARROW, WIDE, w, (lo, lo + width))
    sigma = torch.tensor([0.05, 0.9, 4.0, 30.0], dtype=torch.float64)
    rows = torch.cat([D(X[i : i + 1], s) for i, s in enumerate(sigma)])
    close(D(X, sigma), rows)


def test_rows_outside_the_interval_are_the_main_model_bit_for_bit():
    sigma = torch.linspace(0.1, 10, 999, dtype=torch.float64)
    outside = (sigma < 0.5) | (sigma > 5)
    out, main = guided(NARROW, WIDE, 1.7, (0.5, 5.0))(MANY, sigma), NARROW(MANY, sigma)
    assert torch.equal(out[outside], main[outside]) and not torch.isclose(out[~outside], main[~outside]).all()


def test_w_may_be_a_function_of_sigma():
    w = lambda sigma: 1 + sigma
    for sigma in (0.3, torch.tensor(2.0)):
        close(guided(NARROW, WIDE, w)(X, sigma), guided(NARROW, WIDE, 1 + float(sigma))(X, sigma))


def test_a_function_of_sigma_weighs_each_sample_by_its_own_level():
    sigma = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    out = guided(NARROW, WIDE, lambda s: 1 + s)(X, sigma)
    for i, s in enumerate(sigma):
        close(out[i : i + 1], guided(NARROW, WIDE, 1 + s.item())(X[i : i + 1], s))


def test_a_function_that_is_1_makes_no_guide_call_and_a_row_at_0_or_1_is_exact():
    main, guide = counted()
    w = lambda s: torch.where(s < 1, 1.0, 0.0)
    assert torch.equal(guided(main, guide, w)(X, torch.tensor(0.5)), NARROW(X, 0.5)) and guide.calls == 0
    sigma = torch.tensor([0.5, 2.0, 0.1, 3.0])
    out = guided(main, guide, w)(X, sigma)
    assert torch.equal(out[[0, 2]], NARROW(X, sigma)[[0, 2]]) and torch.equal(
        out[[1, 3]], WIDE(X, sigma)[[1, 3]]
    )


@given(weights, levels)
def test_a_denoiser_guided_by_itself_is_itself(w, sigma):
    assert torch.equal(guided(NARROW, NARROW, w)(X, sigma), NARROW(X, sigma))
    close(plane(NARROW, NARROW, NARROW, w, -w)(X, sigma), NARROW(X, sigma))


@given(st.floats(-3, 3), st.floats(-3, 3), levels)
def test_guiding_twice_multiplies_the_weights(v, w, sigma):
    once = guided(NARROW, WIDE, v)
    close(guided(once, WIDE, w)(X, sigma), guided(NARROW, WIDE, v * w)(X, sigma), rtol=1e-9, atol=1e-9)


@given(weights, levels)
def test_the_score_of_guided_denoising_is_the_guided_score(w, sigma):
    main, guide = random_mixture(3, 1, seed=1), random_mixture(3, 1, seed=2)
    score = (1 - w) * guide.score(X, sigma) + w * main.score(X, sigma)
    close(guided(main.denoise, guide.denoise, w)(X, sigma), X + sigma**2 * score, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("y", (1, torch.tensor([0, 1, 0, 2])))
def test_cfg_guides_the_labelled_branch_by_the_null_branch(y, rng):
    model, x = random_labelled(), torch.randn(4, 2, generator=rng, dtype=torch.float64)
    labelled, null = model.denoiser(y)(x, 0.5), model.denoiser(model.null)(x, 0.5)
    close(cfg(model, y, model.null, 1.5)(x, 0.5), null + 1.5 * (labelled - null))
    assert torch.equal(cfg(model, y, model.null, 1.5, (1.0, 2.0))(x, 0.5), labelled)


def test_a_reused_guide_is_called_in_every_kth_step_and_lends_its_noise_in_between():
    asked = []

    def D(x, sigma):
        asked.append(sigma)
        return 0.3 * x

    guide, sigmas = reused(D, 2), [8.0, 4.0, 2.0, 1.0]
    values = [guide(X, torch.tensor(s)) for s in sigmas]
    assert asked == [8.0, 2.0]
    close(torch.stack(values), torch.stack([0.3 * X, X - 4 / 8 * 0.7 * X, 0.3 * X, X - 1 / 2 * 0.7 * X]))
    for x, s in ((X, 8.0), (X[:1], 4.0), (X, 2.0)):  # a new run; other shapes
        guide(x, torch.tensor(s))
    assert asked == [8.0, 2.0, 8.0, 4.0, 2.0]
    every = reused(D, 1)
    assert all(torch.equal(every(X, torch.tensor(s)), 0.3 * X) for s in sigmas)
    with refuses("every is 0; expected 1 or more"):
        reused(D, 0)


@pytest.mark.parametrize(
    "a, b, calls",
    [
        (1, 1, (0, 0, 1)),  # no guidance
        (1, 1.5, (0, 1, 1)),
        (1, 0, (0, 1, 0)),  # the CFG line and its end
        (1.5, 1.5, (1, 0, 1)),
        (0, 0, (1, 0, 0)),  # the DoG line and its end
        (1.2, 1.5, (1, 1, 1)),
        (0, 1, (1, 1, 1)),
        (2, 0, (1, 1, 0)),
    ],
)
def test_the_plane_calls_only_the_networks_its_point_needs(a, b, calls):
    finetuned, pretrained, null = *counted(), Counted(CLASS)
    plane(pretrained, null, finetuned, a, b)(X, 0.6)
    assert (pretrained.calls, null.calls, finetuned.calls) == calls


@given(weights, weights, levels)
def test_the_plane_is_its_formula(a, b, sigma):
    pre, null, ft = WIDE(X, sigma), NARROW(X, sigma), CLASS(X, sigma)
    close(
        plane(WIDE, NARROW, CLASS, a, b)(X, sigma),
        pre + a * (null - pre) + b * (ft - null),
        rtol=1e-9,
        atol=1e-9,
    )


@given(weights, levels)
def test_the_plane_holds_cfg_and_domain_guidance(w, sigma):
    close(
        plane(WIDE, NARROW, CLASS, 1, w)(X, sigma), guided(CLASS, NARROW, w)(X, sigma), rtol=1e-9, atol=1e-9
    )
    close(plane(WIDE, NARROW, CLASS, w, w)(X, sigma), guided(CLASS, WIDE, w)(X, sigma), rtol=1e-9, atol=1e-9)


def test_the_corners_of_the_plane_are_the_models_bit_for_bit():
    for (a, b), D in {(1, 1): CLASS, (1, 0): NARROW, (0, 0): WIDE}.items():
        assert torch.equal(plane(WIDE, NARROW, CLASS, a, b)(X, 0.4), D(X, 0.4))


def test_an_empty_batch_with_a_weight_per_sample_stays_one():
    none = torch.zeros(0)
    for D in (guided(CLASS, WIDE, none), plane(WIDE, NARROW, CLASS, none, none)):
        assert D(X[:0], 1.0).shape == (0, 1)


def test_outside_the_interval_the_plane_is_the_fine_tuned_model():
    pretrained, null, finetuned = Counted(WIDE), Counted(NARROW), Counted(CLASS)
    D = plane(pretrained, null, finetuned, 1.3, 2.0, interval=(0.5, 5.0))
    assert torch.equal(D(X, 0.1), CLASS(X, 0.1)) and (pretrained.calls, null.calls) == (0, 0)
    sigma = torch.tensor([0.1, 1.0, 2.0, 9.0], dtype=torch.float64)
    close(D(X, sigma), torch.cat([D(X[i : i + 1], s) for i, s in enumerate(sigma)]))


def test_the_weights_of_the_plane_may_be_functions_of_sigma():
    sigma = torch.tensor([0.1, 0.5, 1.0, 3.0], dtype=torch.float64)
    out = plane(WIDE, NARROW, CLASS, lambda s: 1 + s, lambda s: 2 - s)(X, sigma)
    for i, s in enumerate(sigma.tolist()):
        close(out[i : i + 1], plane(WIDE, NARROW, CLASS, 1 + s, 2 - s)(X[i : i + 1], s))


def test_a_row_that_needs_one_network_gets_it_bit_for_bit():
    """(a, b) is (2, 1), (1, 1), (1, 0) row by row: the first needs all three networks, although b is 1."""
    a, b = torch.tensor([2.0, 1.0, 1.0]).repeat(333), torch.tensor([1.0, 1.0, 0.0]).repeat(333)
    out = plane(WIDE, NARROW, CLASS, lambda s: a, lambda s: b)(MANY, 0.5)
    pre, null, ft = WIDE(MANY, 0.5), NARROW(MANY, 0.5), CLASS(MANY, 0.5)
    close(out[::3], (2 * null - pre + ft - null)[::3])
    assert torch.equal(out[1::3], ft[1::3]) and torch.equal(out[2::3], null[2::3])
    assert torch.equal(plane(WIDE, NARROW, CLASS, lambda s: a, 1)(MANY, 0.5)[1::3], ft[1::3])


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_guidance_keeps_the_precision_of_x(dtype):
    x, sigma = X.to(dtype), torch.tensor([0.1, 0.5, 1.0, 3.0])
    for D in (guided(NARROW, WIDE, 1.5, (0.3, 2)), plane(WIDE, NARROW, CLASS, 1.2, lambda s: s.double())):
        assert D(x, 0.5).dtype == D(x, sigma).dtype == dtype


def test_images_are_guided_as_points_are():
    x, sigma = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0.1, 1.0, 9.0])
    main, guide = (lambda x, s: x / (1 + s.reshape(-1, 1, 1, 1))), (lambda x, s: x * 0)
    out = guided(main, guide, 2.0, (0.5, 5.0))(x, sigma)
    close(out, main(x, sigma) * torch.tensor([1.0, 2.0, 1.0]).reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("w", (math.nan, math.inf, -math.inf))
def test_a_weight_that_is_not_finite_is_refused_before_any_call(w):
    for make in (guided, domain_guidance, autoguidance):
        with refuses("w is", "finite"):
            make(NARROW, WIDE, w)
    with refuses("a is", "finite"):
        plane(WIDE, NARROW, CLASS, w, 1)
    with refuses("b is", "finite"):
        plane(WIDE, NARROW, CLASS, 1, w)
    model = random_labelled()
    with refuses("w is", "finite"):
        cfg(model, 0, model.null, w)


def test_a_function_that_is_not_finite_is_refused_before_any_call():
    main, guide = counted()
    with refuses("w is not finite at sigma = 2"):
        guided(main, guide, lambda s: math.nan)(X, 2.0)
    with refuses("w is not finite at sigma = 3"):
        guided(main, guide, lambda s: 1 / (s - 3))(X, torch.tensor([2.0, 3.0, 4.0, 5.0]))
    with refuses("b is not finite"):
        plane(main, guide, main, 1, lambda s: math.inf)(X, 2.0)
    assert main.calls == guide.calls == 0


@pytest.mark.parametrize("interval", [(1.0, 1.0), (2.0, 1.0), (-1.0, 1.0), (math.nan, 1.0), (0.0, math.nan)])
def test_an_empty_interval_is_refused(interval):
    for make in (guided, domain_guidance, autoguidance):
        with refuses("interval is", "low < high"):
            make(NARROW, WIDE, 1.5, interval)
    with refuses("interval is"):
        plane(WIDE, NARROW, CLASS, 1.5, 1.5, interval)


@pytest.mark.parametrize("null", (0, 1, 3, 1000))
def test_the_null_label_of_another_model_is_refused(null):
    with refuses(f"null is {null}", "null label is 2"):
        cfg(random_labelled(classes=2), 0, null, 1.5)


def test_a_label_out_of_range_is_refused_at_the_call():
    model = random_labelled(classes=2)
    with refuses("label 7 is out of range for 2 classes (null is 2)"):
        cfg(model, 7, model.null, 1.5)


def test_a_level_that_is_not_positive_is_refused():
    for sigma in (0.0, -1.0, math.nan):
        with refuses("sigma"):
            guided(NARROW, WIDE, 1.5)(X, sigma)


@pytest.mark.parametrize("b", (0.0, 0.3, 2.0))
@pytest.mark.parametrize("sigma", (0.01, 0.5, 20.0, torch.tensor([0.1, 1.0, 3.0, 9.0], dtype=torch.float64)))
def test_the_blurred_denoiser_is_that_of_the_blurred_mixture(b, sigma, rng):
    mixture, x = random_mixture(5, 2), 3 * torch.randn(4, 2, generator=rng, dtype=torch.float64)
    wide = GaussianMixture(mixture.weights, mixture.means, mixture.covs + b**2 * torch.eye(2).double())
    close(blurred(mixture.denoise, b)(x, sigma), wide.denoise(x, sigma), rtol=1e-10, atol=1e-10)


def test_an_ensemble_is_blurred_with_a_level_per_member_and_sample(rng):
    x, sigma = torch.randn(2, 3, 1, generator=rng, dtype=torch.float64), torch.rand(2, 3).double() + 0.1
    found = blurred(NARROW, 0.4)(x, sigma)
    for i in range(2):
        close(found[i], blurred(NARROW, 0.4)(x[i], sigma[i]))


def test_guided_by_its_blurred_self_a_gaussian_ends_where_the_closed_form_says():
    """std s (s / sqrt(s^2 + b^2))^(w - 1), and the mean where it was."""
    D = guided(NARROW, blurred(NARROW, 0.8), 1.5)
    x_T = 1_000 * torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    low, middle, high = last(heun(D, x_T, karras(400, 1e-3, 1_000.0)))[:, 0].tolist()
    mean, std = theory.gaussian_guidance((1.0, 0.5), (1.0, math.hypot(0.5, 0.8)), 1.5)
    assert middle == pytest.approx(mean, abs=1e-3) and mean == pytest.approx(1.0)
    assert (high - low) / 2 == pytest.approx(std, rel=1e-3)


@pytest.mark.parametrize("b", (-0.1, math.nan, math.inf))
def test_a_blur_that_is_no_width_is_refused(b):
    with refuses(f"b is {b}", "expected"):
        blurred(NARROW, b)
    with refuses("sigma"):
        blurred(NARROW, 1.0)(X, 0.0)
    with refuses("b is 1e+39; expected a width that is finite in torch.float32"):
        blurred(NARROW, 1e39)(X.float(), 0.7)
    with refuses("x is", "expected a tensor of floating point numbers", error=TypeError):
        blurred(NARROW, 1.0)(X.long(), 0.7)


def test_an_estimate_of_another_shape_is_refused_where_it_would_be_broadcast():
    for D in (lambda x, sigma: x[..., :0], lambda x, sigma: x[:1], lambda x, sigma: 0.0):
        for method in (blurred, reused):
            with refuses("D gives", "expected an estimate of x"):
                method(D, 2)(X, 0.7)
    with refuses("main is 0.0 and guide is 1.0; expected tensors of one shape"):
        guided(lambda x, sigma: 0.0, lambda x, sigma: 1.0, 1.5)(X, 0.7)


@pytest.mark.parametrize("at", [0.0, 1.0, 1.7, [0.0, 1.0, 1.7, 1.0]])
def test_a_gradient_reaches_the_weight_at_0_and_1_too(at):
    """d/dw of D_guide + w (D_main - D_guide); a sampler, which keeps no graph, still saves the call."""
    x = torch.linspace(-1, 2, 4, dtype=torch.float64)[:, None]
    main, guide = gaussian(0.0, 1.0).denoise, gaussian(1.0, 2.0).denoise
    w = torch.tensor(at, dtype=torch.float64, requires_grad=True)
    slope = main(x, 0.7) - guide(x, 0.7)
    (found,) = torch.autograd.grad(guided(main, guide, w)(x, 0.7).sum(), w)
    torch.testing.assert_close(found, slope.sum() if w.ndim == 0 else slope[:, 0])
    (found,) = torch.autograd.grad(plane(guide, guide, main, 1.0, w)(x, 0.7).sum(), w)
    torch.testing.assert_close(found, slope.sum() if w.ndim == 0 else slope[:, 0])
    counted = Counted(guide)
    with torch.no_grad():
        guided(main, counted, torch.ones(4, requires_grad=True))(x, 0.7)
    assert counted.calls == 0


@pytest.mark.parametrize("at", [0.0, 1.0, 1.7])
@pytest.mark.parametrize("backward", [True, False])
def test_a_forward_derivative_reaches_the_weight_too(at, backward):
    """Of a number and of a function of sigma, of which w'(sigma) is a part."""
    w, one = torch.tensor([at, 1.0], dtype=torch.float64)
    slope = NARROW(X, 0.7) - WIDE(X, 0.7)
    with torch.set_grad_enabled(backward):
        for D in (lambda w: guided(NARROW, WIDE, w), lambda w: plane(WIDE, WIDE, NARROW, 1.0, w)):
            close(torch.func.jvp(lambda w: D(w)(X, 0.7), (w,), (one,))[1], slope)
            close(torch.func.jvp(lambda w: D(lambda sigma: w * sigma)(X, 0.7), (w,), (one,))[1], 0.7 * slope)


def test_vmap_over_weights_and_noise_levels_guides_one_by_one():
    at = torch.tensor([0.0, 1.0, 1.7], dtype=torch.float64)
    for one in (
        lambda w: guided(NARROW, WIDE, w)(X, 0.7),
        lambda w: plane(WIDE, NARROW, CLASS, w, 2 - w)(X, 0.7),
        lambda sigma: guided(NARROW, WIDE, lambda s: 1 + s, (0.5, 1.5))(X, sigma + 0.1),
        torch.func.grad(lambda w: guided(NARROW, WIDE, w)(X, 0.7).sum()),
    ):
        close(torch.vmap(one)(at), torch.stack([one(value) for value in at]))

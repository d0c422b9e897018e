import math
import weakref

import numpy as np
import pytest
import torch
from helpers import Counted, gaussian, refuses
from hypothesis import given, settings
from hypothesis import strategies as st

from dgtoy import calibrate, domain_guidance, guided, plane
from dgtoy.calibration import Calibration, calibrate_methods
from dgtoy.course.worlds import domains

close = torch.testing.assert_close
LEVELS = [2.0, 1.0, 0.5, 0.25]
WIDE, NARROW = gaussian(0.0, 3.0).denoise, gaussian(1.0, 0.5).denoise


@pytest.fixture(scope="module")
def world():
    return domains.make()


def held_out(world, n=1_500):
    """n points a class of the target, with their labels."""
    points = world.data(n, [0])
    return points.x0[0].double(), points.label[0]


def unfinished(pre, done, alpha):
    """A fine-tune that has gone the share alpha of the way from `pre` to `done`."""
    return lambda x, sigma: pre(x, sigma) + alpha * (done(x, sigma) - pre(x, sigma))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", (0.4, 0.8, 2.0))
def test_an_unfinished_fine_tune_asks_for_one_over_alpha(world, alpha):
    pre = world.source.denoise
    main = lambda label: unfinished(pre, world.target.denoiser(label), alpha)
    found = calibrate(main, pre, held_out(world), LEVELS, generator=seeded())
    close(found.weights[:, 0], torch.full((4,), 1 / alpha, dtype=torch.float64), rtol=0.03, atol=0)
    assert ((found.low <= found.weights) & (found.weights <= found.high)).all()
    assert ((found.high - found.low) < 0.2 / alpha).all()


def test_an_estimate_of_another_shape_is_refused():
    x0, short = torch.linspace(0, 2, 5)[:, None], lambda x, sigma: WIDE(x, sigma)[:1]
    right = dict(main=NARROW, guide=WIDE, middle=WIDE)
    for name in right:
        with refuses(f"{name} gives a Tensor", "shape (1, 1); expected an estimate of x (5, 1)"):
            calibrate(**right | {name: short}, data=x0, sigmas=LEVELS)


@pytest.mark.parametrize("n", (1, 2, 5))
def test_few_points_do_not_tell_how_far_their_weight_is_off(n):
    found = calibrate(NARROW, WIDE, torch.ones(n, 1, dtype=torch.float64), LEVELS, generator=seeded())
    assert found.weights.isfinite().all()
    assert (found.low == -math.inf).all() and (found.high == math.inf).all()
    enough = calibrate(NARROW, WIDE, torch.ones(6, 1, dtype=torch.float64), LEVELS, generator=seeded())
    assert enough.low.isfinite().all() and enough.high.isfinite().all()


def test_torch_s_default_device_changes_nothing():
    x0, levels = torch.linspace(0, 2, 50, dtype=torch.float64)[:, None], torch.tensor(LEVELS)
    expected = calibrate(NARROW, WIDE, x0, levels, generator=seeded(), resamples=20)
    with torch.device("meta"):  # which has no numbers
        found = calibrate(NARROW, WIDE, x0, levels, generator=seeded(), resamples=20)
    assert torch.equal(found.weights, expected.weights) and torch.equal(found.high, expected.high)


@given(st.floats(0.05, 5))
@settings(max_examples=10)
def test_on_the_same_points_alpha_times_its_weight_is_the_same_for_every_alpha(alpha):
    x0 = torch.linspace(0, 2, 50, dtype=torch.float64)[:, None]
    of = lambda a: calibrate(unfinished(WIDE, NARROW, a), WIDE, x0, LEVELS, generator=seeded(), resamples=20)
    close(alpha * of(alpha).weights, of(1.0).weights, rtol=1e-7, atol=0)
    close(alpha * of(alpha).high, of(1.0).high, rtol=1e-7, atol=0)


def test_the_plane_asks_for_one_over_alpha_and_one_over_beta(world):
    pre, marginal = world.source.denoise, world.target.denoise
    null = unfinished(pre, marginal, 0.5)

    def main(label):
        inside = world.target.denoiser(label)
        return lambda x, sigma: null(x, sigma) + 0.7 * (inside(x, sigma) - marginal(x, sigma))

    found = calibrate(main, pre, held_out(world, 3_000), [1.5, 0.8, 0.5], middle=null, generator=seeded())
    close(found.weights[:, 0], torch.full((3,), 1 / 0.5, dtype=torch.float64), rtol=0.03, atol=0)
    close(found.weights[:, 1], torch.full((3,), 1 / 0.7, dtype=torch.float64), rtol=0.06, atol=0)


def test_the_calibrated_weights_minimise_the_error_on_the_held_out_points():
    """The same noise again: moving either weight of the plane either way makes the error worse."""
    x0, middle = torch.linspace(-1, 3, 200, dtype=torch.float64)[:, None], gaussian(0.5, 1.0).denoise
    found = calibrate(NARROW, WIDE, x0, [0.7], middle=middle, generator=seeded(), resamples=1)
    x = x0 + 0.7 * torch.randn(x0.shape, generator=seeded(), dtype=x0.dtype)
    error = lambda a, b: (plane(WIDE, middle, NARROW, a, b)(x, 0.7) - x0).square().mean().item()
    a, b = found.weights[0].tolist()
    assert all(
        error(a, b) < error(a + da, b + db) for da, db in [(0.01, 0), (-0.01, 0), (0, 0.01), (0, -0.01)]
    )


def test_the_calibrated_plane_does_no_worse_than_its_calibrated_cfg_line():
    x0, middle = torch.linspace(-1, 3, 200, dtype=torch.float64)[:, None], gaussian(0.4, 0.9).denoise
    line = calibrate(NARROW, middle, x0, [0.7], generator=seeded(), resamples=1).weights[0, 0]
    both = calibrate(NARROW, WIDE, x0, [0.7], middle=middle, generator=seeded(), resamples=1).weights[0]
    x = x0 + 0.7 * torch.randn(x0.shape, generator=seeded(), dtype=x0.dtype)
    error = lambda a, b: (plane(WIDE, middle, NARROW, a, b)(x, 0.7) - x0).square().mean()
    assert error(*both.tolist()) <= error(1.0, line.item())


def test_arrays_pairs_and_loaders_give_the_same_answer(world):
    x0, label = held_out(world, 300)
    pre, done = world.source.denoise, world.target.denoise
    main = lambda label: unfinished(pre, done, 0.5)
    batches = list(zip(x0.split(128), label.split(128), strict=True))
    whole = calibrate(main(None), pre, x0, LEVELS, generator=seeded(), batch=128)
    loader = lambda *of: torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*of), batch_size=128)
    for main_, data in [
        (main, (x0, label)),
        (main, [x0, label]),
        (main, batches),
        (main, iter(batches)),
        (main, loader(x0, label)),
        (main, (x0, label.numpy())),
        (main, [(x, y.tolist()) for x, y in batches]),
        (main(None), loader(x0)),
        (main(None), list(x0.split(128))),
        (main(None), (b for b in x0.split(128))),
    ]:
        again = calibrate(main_, pre, data, LEVELS, generator=seeded(), batch=128)
        assert all(
            torch.equal(getattr(again, f), getattr(whole, f)) for f in ("sigmas", "weights", "low", "high")
        )


def test_a_labelled_main_model_sees_each_point_with_its_label():
    x0, label, seen = torch.arange(10.0, dtype=torch.float64)[:, None], torch.arange(10), []

    def main(label):
        seen.append(label)
        return NARROW

    calibrate(main, WIDE, (x0, label), [1.0, 0.5], generator=seeded(), batch=4, resamples=5)
    assert torch.equal(torch.cat(seen), label)


@pytest.mark.parametrize("n, least", [(8, 0.85), (150, 0.88)])
def test_the_interval_holds_the_true_weight_about_as_often_as_it_says(n, least):
    """D_ft half way from N(0, 3) to N(1, .5): the weight is 2. 95% nominal; 60 repetitions, three levels."""
    main, hits = unfinished(WIDE, NARROW, 0.5), []
    for seed in range(60):
        g = seeded(seed)
        x0 = gaussian(1.0, 0.5).sample(n, generator=g)
        found = calibrate(main, WIDE, x0, [2.0, 1.0, 0.5], generator=g, resamples=200)
        hits.append((found.low <= 2) & (2 <= found.high))
    assert least < torch.stack(hits).double().mean() < 0.99


def test_the_interval_narrows_with_the_root_of_the_number_of_points():
    width = lambda n: calibrate(
        unfinished(WIDE, NARROW, 0.5),
        WIDE,
        gaussian(1.0, 0.5).sample(n, generator=seeded()),
        [0.5],
        generator=seeded(),
    )
    few, many = (width(n) for n in (200, 3_200))
    assert 2.5 < float((few.high - few.low) / (many.high - many.low)) < 6


def test_data_is_read_once_and_let_go():
    """Arrays are watched, not tensors: they live as long as any view of the memory does."""
    watched, alive, rounds = [], [], 0

    class Loader:
        def __iter__(self):
            nonlocal rounds
            rounds += 1
            for seed in range(30):
                x0 = np.random.default_rng(seed).normal(1.0, 0.5, (20, 1))
                watched.append(weakref.ref(x0))
                alive.append(sum(r() is not None for r in watched))
                yield torch.from_numpy(x0)

    calibrate(NARROW, WIDE, Loader(), [1.0, 0.5], generator=seeded(), resamples=10)
    assert rounds == 1 and len(watched) == 30
    assert max(alive) <= 3


def test_each_model_is_called_once_a_level_and_batch():
    main, guide, middle = Counted(NARROW), Counted(WIDE), Counted(gaussian(0.5, 1.0).denoise)
    calibrate(
        main,
        guide,
        torch.ones(30, 1) + torch.arange(30.0)[:, None],
        [1.0, 0.5],
        middle,
        seeded(),
        5,
        batch=10,
    )
    assert main.calls == guide.calls == middle.calls == 2 * 3


@pytest.mark.parametrize("dtype, apart", [(torch.float64, 1.0), (torch.float32, 1e-3)])
def test_all_methods_at_once_are_what_each_is_alone(world, dtype, apart):
    """Also where the fine-tune is next to its ancestor, and its null branch is not."""
    x0, label = held_out(world, 50)
    cast = lambda D: lambda x, sigma: D(x.double(), sigma).to(dtype)
    pre, null = cast(world.source.denoise), cast(world.target.denoise)
    main = lambda label: unfinished(pre, cast(world.target.denoiser(label)), apart)
    counted, data = [Counted(D) for D in (pre, null)], (x0.to(dtype), label)
    found = calibrate_methods(main, counted[1], counted[0], data, LEVELS, seed=5, resamples=20, batch=30)
    assert [D.calls for D in counted] == [4 * len(LEVELS)] * 2
    for method, (guide, middle) in dict(DoG=(pre, None), CFG=(null, None), plane=(pre, null)).items():
        alone = calibrate(main, guide, data, LEVELS, middle, seeded(5), resamples=20, batch=30)
        for field in ("sigmas", "weights", "low", "high"):
            close(getattr(found[method], field), getattr(alone, field), rtol=1e-6, atol=1e-6)


def test_calibration_draws_from_its_generator_alone():
    before = torch.get_rng_state()
    a, b = (
        calibrate(NARROW, WIDE, torch.arange(9.0)[:, None], [0.5], generator=seeded(), resamples=20)
        for _ in range(2)
    )
    assert torch.equal(a.low, b.low) and torch.equal(torch.get_rng_state(), before)


def test_images_are_calibrated_as_points_are():
    """Images of 4 pixels and two shrinking denoisers; the answer is least squares by hand."""
    x0 = torch.randn(40, 1, 2, 2, generator=seeded(7), dtype=torch.float64)
    main, guide = (lambda x, s: 0.5 * x), (lambda x, s: 0.1 * x)
    found = calibrate(main, guide, x0, [0.8], generator=seeded(), resamples=1)
    x = x0 + 0.8 * torch.randn(x0.shape, generator=seeded(), dtype=x0.dtype)
    close(found.weights[0, 0], ((x0 - 0.1 * x) * 0.4 * x).sum() / (0.4 * x).square().sum())


def calibration():
    """Weights 3, 2, 1 and 4, 6, 8 at levels 4, 1, 1/4, given in falling order as a schedule is."""
    weights = torch.tensor([[3.0, 4.0], [2.0, 6.0], [1.0, 8.0]], dtype=torch.float64)
    return Calibration(torch.tensor([4.0, 1.0, 0.25], dtype=torch.float64), weights, weights - 1, weights + 1)


@pytest.mark.parametrize(
    "sigma, w, b",
    [
        (4.0, 3, 4),
        (2.0, 2.5, 5),
        (1.0, 2, 6),
        (0.5, 1.5, 7),
        (0.25, 1, 8),
        (50.0, 3, 4),
        (0.001, 1, 8),
    ],
)
def test_weights_are_linear_in_ln_sigma_and_constant_beyond(sigma, w, b):
    found = calibration()
    assert float(found.w(sigma)) == pytest.approx(w) and float(found.a(sigma)) == pytest.approx(w)
    assert float(found.b(torch.tensor(sigma))) == pytest.approx(b)


def test_weights_are_taken_for_each_sample_s_own_level():
    found = calibration()
    close(found.w(torch.tensor([4.0, 2.0, 0.1])), torch.tensor([3.0, 2.5, 1.0], dtype=torch.float64))
    assert found == found and found != calibration()


def test_calibrated_guidance_of_an_unfinished_fine_tune_is_the_finished_one():
    half = unfinished(WIDE, NARROW, 0.5)
    found = calibrate(
        half,
        WIDE,
        gaussian(1.0, 0.5).sample(20_000, generator=seeded()),
        LEVELS,
        generator=seeded(),
        resamples=10,
    )
    x = torch.linspace(-1, 3, 9, dtype=torch.float64)[:, None]
    for sigma in (0.25, 0.7, torch.linspace(0.3, 2, 9)):
        close(domain_guidance(half, WIDE, found.w)(x, sigma), NARROW(x, sigma), rtol=0, atol=0.05)


@pytest.mark.parametrize("sigmas", ([], [0.0], [1.0, -1.0], [math.nan], [math.inf]))
def test_levels_that_are_not_positive_are_refused_before_any_call(sigmas):
    main = Counted(NARROW)
    with refuses("sigmas is", "positive, finite"):
        calibrate(main, WIDE, torch.ones(5, 1), sigmas)
    assert main.calls == 0


@pytest.mark.parametrize(
    "data",
    [
        torch.zeros(0, 1),
        [],
        iter([]),
        [torch.zeros(0, 1)],
        (torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)),
    ],
)
def test_no_data_is_refused(data):
    main = (lambda label: NARROW) if isinstance(data, tuple) else NARROW
    with refuses("data holds no points"):
        calibrate(main, WIDE, data, [1.0])


@pytest.mark.parametrize("n", (4, 6))
def test_labels_for_another_number_of_points_are_refused(n):
    with refuses(f"data holds 5 points with {n} labels"):
        calibrate(lambda label: NARROW, WIDE, (torch.ones(5, 1), torch.zeros(n, dtype=int)), [1.0])


def test_models_that_do_not_differ_are_refused():
    x0 = torch.arange(5.0)[:, None]
    with refuses("do not differ at sigma = 0.5"):
        calibrate(NARROW, NARROW, x0, [0.5])
    for middle in (WIDE, guided(NARROW, WIDE, 0.3)):  # no direction, and the same one but for rounding
        with refuses("the two directions of the plane do not differ at sigma = 0.5"):
            calibrate(NARROW, WIDE, x0, [0.5], middle=middle)

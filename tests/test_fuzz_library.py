"""The library's front door on arguments of every kind: an identity holds, or one line names what is wrong."""

import itertools
import math
import shutil

import numpy as np
import pytest
import torch
from helpers import random_labelled, random_mixture
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples, place

from dgtoy import (
    MLP,
    Ensemble,
    GaussianMixture,
    Recipe,
    ancestral,
    blurred,
    calibrate,
    cfg,
    dpmpp_2m,
    euler,
    guided,
    heun,
    interop,
    metrics,
    plane,
    shipped,
    theory,
)
from dgtoy.pipeline import finetune, sample
from dgtoy.trainer import TrainingConfig

close = torch.testing.assert_close
MAIN, GUIDE, OTHER = (random_mixture(3, 2, seed).denoise for seed in range(3))
LABELLED = random_labelled(6, 2, 3)
ODD = (None, "a", 1j, object(), [], {}, math.nan, math.inf, -math.inf)  # what nothing here takes
DTYPES = (torch.float32, torch.float64, torch.half, torch.bfloat16)


def refused(call, sound):
    """Whether the call was refused, in one line; what it gave. It must be refused unless `sound`."""
    try:
        found = call()
    except (TypeError, ValueError) as e:
        assert not sound, e
        assert "\n" not in str(e) and len(str(e)) < 300 and "expected" in str(e) or says_why(str(e)), e
        return True, None
    assert sound, found
    return False, found


def says_why(text):
    """The older forms of saying what was expected."""
    return any(
        w in text
        for w in (
            "out of range",
            "not finite",
            "must decrease",
            "not positive definite",
            "needs",
            "null label is",
        )
    )


@st.composite
def points(draw, dtypes=DTYPES):
    """x (B, 2) of some precision."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    x = 3 * torch.randn(draw(st.integers(1, 5)), 2, generator=g, dtype=torch.float64)
    return x.to(draw(st.sampled_from(dtypes)))


@st.composite
def numbers(draw, n, low=-3.0, high=5.0):
    """A weight or a level as people write one, for n samples; its value in float64; whether it is one."""
    value = draw(st.floats(low, high))
    many = draw(st.lists(st.floats(low, high), min_size=n, max_size=n))
    forms = [
        (value, value, True),
        (int(math.ceil(value)), math.ceil(value), True),
        (np.float64(value), value, True),
        (torch.tensor(value), torch.tensor(value).item(), True),
        (torch.tensor(many, dtype=torch.float64), torch.tensor(many, dtype=torch.float64)[:, None], True),
        (np.array(many), torch.tensor(many, dtype=torch.float64)[:, None], True),
        (torch.ones(n + 1), None, False),
        (torch.ones(n, 2), None, False),
        (torch.ones(1, 1, 1), None, False),
        *((odd, None, False) for odd in ODD),
    ]
    return draw(st.sampled_from(forms))


@st.composite
def intervals(draw):
    """An interval of noise levels; its ends, or None where it holds none."""
    lo, hi = draw(st.floats(0, 3)), draw(st.floats(0, 3))
    right = [((lo, hi), (lo, hi) if lo < hi else None), ([0, math.inf], (0, math.inf)), ((0.0, 9), (0, 9))]
    wrong = [
        (bad, None) for bad in (None, (1,), (1, 2, 3), "ab", (math.nan, 1), (2, 1), (-1, 1), (0, None), 5)
    ]
    return draw(st.sampled_from(right * 3 + wrong))


# guidance


@examples(70)
@given(st.data(), points(), intervals())
def test_guidance_is_its_formula(data, x, interval):
    w, weight, right_w = data.draw(numbers(len(x)))
    sigma, level, right_sigma = data.draw(numbers(len(x), 0.05, 20.0))
    given_interval, ends = interval
    sound = right_w and right_sigma and ends is not None
    _, out = refused(lambda: guided(MAIN, GUIDE, w, given_interval)(x, sigma), sound)
    if out is not None:
        assert out.dtype == x.dtype and out.shape == x.shape and not out.requires_grad
        level = torch.as_tensor(level, dtype=torch.float64)
        inside = (level >= ends[0]) & (level <= ends[1])
        weight = torch.where(inside, torch.as_tensor(weight, dtype=torch.float64), 1.0)
        one, other = MAIN(x, sigma).double(), GUIDE(x, sigma).double()
        rough = {torch.half: 3e-2, torch.bfloat16: 3e-1}.get(x.dtype, 1e-4)
        close(out.double(), other + weight * (one - other), rtol=rough, atol=rough)


@examples(40)
@given(st.data(), points((torch.float32, torch.float64)))
def test_the_plane_holds_guidance_and_cfg(data, x):
    a, one, right_a = data.draw(numbers(len(x)))
    b, other, right_b = data.draw(numbers(len(x)))
    _, out = refused(lambda: plane(GUIDE, OTHER, MAIN, a, b)(x, 0.7), right_a and right_b)
    if out is not None:
        one, other = torch.as_tensor(one, dtype=torch.float64), torch.as_tensor(other, dtype=torch.float64)
        low, middle, high = (D(x, 0.7).double() for D in (GUIDE, OTHER, MAIN))
        close(out.double(), low + one * (middle - low) + other * (high - middle), rtol=1e-4, atol=1e-4)
        assert out.dtype == x.dtype


RIGHT_LABELS = (0, 1, 2, 3, np.int64(1), torch.tensor(2), [0, 1], torch.tensor([0]))
WRONG_LABELS = (4, -1, 1.0, True, None, "0", math.nan, [0, 1, 2, 3, 4, 5, 0])


@examples(30)
@given(st.sampled_from(RIGHT_LABELS + WRONG_LABELS), st.sampled_from((3, 3, 3, 2, None, "3")), st.data())
def test_cfg_takes_the_models_own_labels(label, null, data):
    x = data.draw(points((torch.float64,)))
    right = any(label is one for one in RIGHT_LABELS) and np.shape(label) in ((), (len(x),))
    _, out = refused(lambda: cfg(LABELLED, label, null, 2.0)(x, 0.7), right and null == 3)
    if out is not None:
        rows = torch.as_tensor(label).expand(len(x)).tolist()
        parts = [LABELLED.given(k).denoise(row[None], 0.7) for k, row in zip(rows, x, strict=True)]
        close(out, 2 * torch.cat(parts) - LABELLED.denoise(x, 0.7))


@examples(30)
@given(points((torch.float32, torch.float64)), st.one_of(st.floats(0, 5), st.sampled_from((-1.0, *ODD))))
def test_a_blur_is_that_of_the_density(x, b):
    sound = isinstance(b, float) and 0 <= b < math.inf
    _, out = refused(lambda: blurred(MAIN, b)(x, 0.7), sound)
    if out is not None:
        mixture = random_mixture(3, 2, 0)
        wide = GaussianMixture(mixture.weights, mixture.means, mixture.covs + b**2 * torch.eye(2).double())
        close(out.double(), wide.denoise(x.double(), 0.7), rtol=1e-4, atol=1e-4)


# samplers


@st.composite
def schedules(draw):
    """Noise levels in any order and form; their values where they are a schedule, or None."""
    values = draw(st.lists(st.one_of(st.floats(0, 50), st.integers(0, 50)), max_size=5))
    values = draw(st.sampled_from((values, sorted(values, reverse=True), sorted(set(values), reverse=True))))
    if draw(st.booleans()) and values:
        values = [*values[:-1], draw(st.sampled_from((math.nan, math.inf, -1.0, 0.0)))]
    form = draw(
        st.sampled_from(
            (
                list,
                tuple,
                np.array,
                torch.tensor,
                lambda v: torch.tensor(v, dtype=torch.float32),
                lambda v: torch.tensor(v, dtype=torch.float64).requires_grad_(),
            )
        )
    )
    sigmas = form(values)
    exact = torch.as_tensor(sigmas, dtype=torch.float64).detach().tolist()
    falls = all(a > b for a, b in zip(exact, exact[1:]))
    right = len(exact) > 1 and falls and exact[-1] >= 0 and math.isfinite(exact[0])
    return draw(st.sampled_from([(sigmas, exact if right else None)] * 9 + [(odd, None) for odd in ODD]))


@examples(80)
@given(schedules(), points(), st.sampled_from((euler, heun, dpmpp_2m, ancestral)), st.booleans())
def test_a_schedule_is_followed_to_its_end_or_refused(schedule, x, sampler, tracked):
    """Where every estimate is 0, x falls with sigma; whatever comes, no graph is kept and the dtype stays."""
    sigmas, levels = schedule
    if levels and min(v for v in levels if v) < 10 / torch.finfo(x.dtype).max:
        return  # x / sigma overflows, or sigma itself is 0 in this precision
    nothing = lambda x, sigma: (0 * x).double()
    _, steps = refused(lambda: list(sampler(nothing, x.requires_grad_(tracked), sigmas)), levels is not None)
    if steps is not None:
        assert len(steps) == len(levels) - 1
        assert all(s.dtype == x.dtype and s.shape == x.shape and not s.requires_grad for s in steps)
        if sampler is not ancestral:
            rough = {torch.half: 1e-2, torch.bfloat16: 1e-1}.get(x.dtype, 1e-5)
            truth = x.detach().double() * levels[-1] / levels[0]
            steep = max([a / b for a, b in itertools.pairwise(levels) if b], default=1)
            bound = 20 * rough * max(1, steep / 500)  # rounding of x_T; heun divides it by a lower level
            close(steps[-1].double(), truth, rtol=rough, atol=bound)


# mixtures


@st.composite
def mixture_parts(draw):
    """weights, means, covs as people make them, and whether they are a mixture."""
    k, d = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    dtype = draw(st.sampled_from((torch.float32, torch.float64)))
    weights = 0.2 + torch.rand(k, generator=g, dtype=dtype)
    means, root = torch.randn(k, d, generator=g, dtype=dtype), torch.randn(k, d, d, generator=g, dtype=dtype)
    parts = dict(
        weights=weights / weights.sum(), means=means, covs=root @ root.mT + 0.1 * torch.eye(d, dtype=dtype)
    )
    name = draw(st.sampled_from(sorted(parts)))
    spoils = dict(
        none=lambda v: v,
        list=lambda v: v.tolist(),
        array=lambda v: v.numpy(),
        half=lambda v: v.double(),
        shorter=lambda v: v[:-1],
        flat=lambda v: v.flatten()[:-1],
        nan=lambda v: v * math.nan,
        infinite=lambda v: v * math.inf,
        zero=lambda v: v * 0,
        negative=lambda v: -v,
        nothing=lambda v: None,
        words=lambda v: "a",
        complex=lambda v: v.to(torch.cfloat),
    )
    kind = draw(st.sampled_from(["none"] * 6 + sorted(spoils)))
    parts[name] = spoils[kind](parts[name])
    harmless = kind in ("zero", "negative") and name == "means"
    return parts, kind in ("none", "list", "array", "half") or harmless


@examples(50)
@given(mixture_parts(), st.floats(0.01, 10), st.floats(0, 1e30), st.sampled_from(DTYPES))
def test_a_mixture_is_finite_and_its_score_is_the_gradient_or_it_is_refused(drawn, sigma, far, dtype):
    parts, sound = drawn
    _, mixture = refused(lambda: GaussianMixture(**parts), sound)
    if mixture is None:
        return
    x = mixture.means[:2].double().requires_grad_()
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(mixture.weights),
        torch.distributions.MultivariateNormal(
            mixture.means, mixture.covs + sigma**2 * torch.eye(x.shape[1], dtype=torch.float64)
        ),
    )
    logp = mixture.logp(x, sigma)
    close(logp, law.log_prob(x), rtol=1e-6, atol=1e-6)
    (gradient,) = torch.autograd.grad(logp.sum(), x)
    close(mixture.score(x, sigma), gradient, rtol=1e-5, atol=1e-5)
    out = (x.detach() + far).clamp(max=torch.finfo(dtype).max).to(dtype)
    for f in (mixture.logp, mixture.score, mixture.denoise, mixture.log_responsibilities):
        found = f(out, min(sigma, 1.0))
        assert found.dtype == dtype and found.isfinite().all()


# closed forms


def is_law(law):
    """Whether it is (mean, std) of a Gaussian."""
    if not isinstance(law, tuple) or len(law) != 2 or isinstance(law[1], str):
        return False
    return math.isfinite(law[0]) and 0 < law[1] < math.inf


laws = st.tuples(st.floats(-5, 5), st.floats(0.05, 5))
odd_laws = st.sampled_from(
    ((0, 0.0), (0, -1.0), (math.nan, 1.0), (0, math.inf), (1,), (1, 2, 3), None, "ab", (0, "a"))
)


@examples(50)
@given(laws | odd_laws, laws | odd_laws, st.floats(-5, 20) | st.sampled_from(ODD), intervals())
def test_a_guided_gaussian_moves_and_scales_with_its_laws(target, source, w, interval):
    given_interval, ends = interval
    right = all(is_law(law) for law in (target, source))
    sound = right and isinstance(w, float) and math.isfinite(w) and ends is not None
    _, found = refused(lambda: theory.gaussian_guidance(target, source, w, given_interval), sound)
    if found is None:
        return
    moved = theory.gaussian_guidance(
        (target[0] + 3, target[1]), (source[0] + 3, source[1]), w, given_interval
    )
    np.testing.assert_allclose(moved, (found[0] + 3, found[1]), rtol=1e-6, atol=1e-6)
    larger = theory.gaussian_guidance(
        (2 * target[0], 2 * target[1]), (2 * source[0], 2 * source[1]), w, (2 * ends[0], 2 * ends[1])
    )
    np.testing.assert_allclose(larger, (2 * found[0], 2 * found[1]), rtol=1e-6, atol=1e-6)
    if w == 1:
        np.testing.assert_allclose(found, target, rtol=1e-6, atol=1e-6)


# distances


@st.composite
def sample_sets(draw):
    """Samples (n, D) as people bring them; as float64, or None where they are none."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 9)))
    x = torch.randn(
        draw(st.integers(0, 9)), draw(st.sampled_from((2, 2, 2, 3))), generator=g, dtype=torch.float64
    )
    kind = draw(
        st.sampled_from(
            ["plain"] * 6 + ["float", "half", "array", "alike", "nan", "inf", "flat", "none", "word"]
        )
    )
    forms = dict(
        plain=x,
        float=x.float(),
        half=x.half(),
        array=x.numpy(),
        alike=torch.ones_like(x),
        nan=x * math.nan,
        inf=x * math.inf,
        flat=x.flatten(),
        none=None,
        word="samples",
    )
    return forms[kind], torch.as_tensor(forms[kind]).double() if kind in forms and kind in (
        "plain",
        "float",
        "half",
        "array",
        "alike",
    ) else None


@examples(60)
@given(sample_sets(), sample_sets(), st.sampled_from((1, 2, 5, 0, -1, 1.5, None)))
def test_distances_are_those_of_their_definitions_or_refused(one, other, k):
    (x, exact_x), (y, exact_y) = one, other
    sets = exact_x is not None and exact_y is not None and exact_x.shape[1] == exact_y.shape[1]
    two = sets and min(len(exact_x), len(exact_y)) > 1
    _, energy = refused(lambda: metrics.energy_distance(x, y), two)
    _, frechet = refused(lambda: metrics.frechet_distance(x, y), two)
    whole = isinstance(k, int) and k > 0
    _, balls = refused(lambda: metrics.prdc(x, y, k), sets and whole and min(len(exact_x), len(exact_y)) > k)
    if energy is not None:
        mean = lambda a, b: (a[:, None] - b).norm(dim=-1).mean()
        within = lambda a: mean(a, a) * len(a) / (len(a) - 1)
        truth = 2 * mean(exact_x, exact_y) - within(exact_x) - within(exact_y)
        close(energy.double(), truth, rtol=1e-3, atol=1e-3)
        assert frechet >= 0
        close(metrics.frechet_distance(y, x), frechet, rtol=1e-6, atol=1e-6)
        assert metrics.frechet_distance(x, x) < 1e-6
    if balls is not None:
        assert all(0 <= balls[name] <= 1 for name in ("precision", "recall", "coverage"))


# calibration


@examples(25)
@given(st.data(), st.sampled_from((torch.float32, torch.float64)))
def test_a_calibrated_weight_scales_with_what_it_weighs(data, dtype):
    c = data.draw(st.sampled_from((0.5, 2.0, -1.0)))
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).to(dtype)
    brought = data.draw(
        st.sampled_from([x] * 6 + [x[:0], x * math.nan, x.long(), x[0], None, "x", [], [x, x * math.inf]])
    )
    sigmas = data.draw(st.sampled_from([[1.0, 0.3]] * 6 + [1.0, [0.0], [-1.0], [math.nan], [], None, "a"]))
    batch = data.draw(st.sampled_from([4] * 6 + [0, -1, 1.5, None]))
    sound = brought is x and (sigmas == [1.0, 0.3] or sigmas == 1.0) and batch == 4
    part = lambda w: lambda x, sigma: GUIDE(x, sigma) + w * (MAIN(x, sigma) - GUIDE(x, sigma))
    run = lambda w: calibrate(
        part(w), GUIDE, brought, sigmas, generator=torch.Generator().manual_seed(1), resamples=5, batch=batch
    )
    _, found = refused(lambda: run(1.0), sound)
    if found is not None:
        close(run(c).weights, found.weights / c, rtol=1e-3, atol=1e-4)


# networks and training


@examples(50)
@given(
    st.sampled_from(("dim", "num_classes", "width", "depth", "sigma_data", "seed")),
    st.sampled_from((0, 1, 2, 5, -1, 1.5, True, np.int64(3), "2", None, math.nan, math.inf)),
    points(),
)
def test_a_network_is_made_of_sizes_and_answers_in_kind(name, value, x):
    whole = isinstance(value, (int, np.int64)) and value is not True
    least = dict(dim=1, num_classes=0, width=1, depth=0, seed=-9, sigma_data=0)[name]
    sound = whole and value >= least
    if name == "sigma_data":
        sound = isinstance(value, (int, float, np.int64)) and 0 < value < math.inf
    config = dict(dim=2, num_classes=2, width=4, depth=1) | {name: value}
    _, net = refused(lambda: MLP(**config), sound)
    if net is None:
        return
    x = x[:, :1].expand(-1, net.config["dim"])
    for k in range(net.null + 1):
        out = net.denoiser(k)(x, 0.7)
        assert out.dtype == x.dtype and out.shape == x.shape and not out.requires_grad
        both = Ensemble([net, net]).denoiser(k)(torch.stack([x, x]), 0.7)
        close(both, torch.stack([out, out]), rtol=1e-2, atol=1e-2)
    refused(lambda: net.denoiser(net.null + 1), False)


RANGES = dict(
    steps=(0, 1), batch=(1, 7), lr=(1e-5, 2), dropout=(0, 1), ema=(0, 0.9), clip=(0, 3), warmup=(0, 9)
)


@examples(80)
@given(
    st.sampled_from((TrainingConfig, Recipe, finetune.Config)),
    st.sampled_from(sorted(RANGES)),
    st.sampled_from((0, 1, 2, 0.5, -1, 1e9, math.nan, math.inf, "1", None, [1], True)),
)
def test_a_recipe_holds_numbers_in_range(kind, name, value):
    real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    sound = real and value >= 0
    if name in ("steps", "batch", "warmup"):
        sound = sound and isinstance(value, int)
    limits = dict(dropout=value if not real else value <= 1, ema=real and value < 1, lr=real and value > 0)
    some = name == "batch" or (name == "steps" and kind is finetune.Config)  # one at least
    sound = bool(sound and limits.get(name, True) and not (some and value < 1))
    _, recipe = refused(lambda: kind(**{name: value}), sound)
    if recipe is not None:
        assert 0 <= recipe.lr_at(0) <= recipe.lr and getattr(recipe, name) == value


@examples(40)
@given(
    st.sampled_from(("w", "count", "channels", "seed", "steps")),
    st.sampled_from((0, 1, 2, 50, -1, 10**12, math.nan, math.inf)),
)
def test_settings_of_samples_are_in_range(name, value):
    whole = isinstance(value, int)
    least = dict(w=-math.inf, count=1, channels=0, seed=-(2**31), steps=1)[name]
    most = dict(steps=1000, seed=2**32 - 1).get(name, math.inf)
    sound = math.isfinite(value) and least <= value <= most and (whole or name == "w")
    refused(lambda: sample.Config(**{name: value}), sound)


# networks from files and from elsewhere


@examples(12)
@given(st.sampled_from(("right", "cut", "other", "no page", "no file", "list", "no sum", "text")))
def test_a_shipped_network_is_whole_or_refused(kind):
    with place() as here:
        for ending in (".json", ".safetensors"):
            shutil.copy(shipped.FOLDER / f"features{ending}", here)
        page, file = here / "features.json", here / "features.safetensors"
        if kind in ("no page", "no file"):
            (page if kind == "no page" else file).unlink()
            with pytest.raises(FileNotFoundError, match="is missing from"):
                shipped.load("features", folder=here)
            return
        if kind in ("cut", "other"):
            file.write_bytes(file.read_bytes()[:-5] if kind == "cut" else b"others")
        if kind in ("list", "no sum", "text"):
            page.write_text({"list": "[1]", "no sum": "{}", "text": "{"}[kind], encoding="utf-8")
        try:
            net = shipped.load("features", folder=here)
        except ValueError as e:
            assert kind != "right" and "fetch it again" in str(e) and "\n" not in str(e)
            return
    mine = shipped.load("features").state_dict()
    assert kind == "right" and all(torch.equal(v, mine[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("predicts", ("x0", "epsilon", "v_prediction", "flow"))
@examples(20)
@given(st.data())
def test_a_network_from_elsewhere_is_a_denoiser(predicts, data):
    """Each kind of network, made from the exact denoiser of a mixture, gives that denoiser back."""
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigma, level, sound = data.draw(numbers(3, 0.05, 20.0))
    _, out = refused(lambda: interop.as_denoiser(exact_network(predicts), predicts)(x, sigma), sound)
    if out is not None:
        level = torch.as_tensor(level, dtype=torch.float64).expand(3, 1)[:, 0]
        close(out, MAIN(x, level), rtol=1e-6, atol=1e-6)


def exact_network(predicts):
    """A network of its kind whose denoiser is MAIN."""

    def net(x, t):
        t = t[:, None].double()
        sigma = t / (1 - t) if predicts == "flow" else t
        scale = dict(flow=1 + sigma, v_prediction=(1 + sigma**2).sqrt()).get(predicts, torch.ones_like(t))
        whole = x * scale  # x0 + sigma eps
        x0 = MAIN(whole, sigma[:, 0])
        eps = (whole - x0) / sigma
        return dict(x0=x0, epsilon=eps, flow=eps - x0, v_prediction=(eps - sigma * x0) / scale)[predicts]

    return net

"""Arguments of a wrong kind are refused by name, before any work; what is odd and right works."""

import math

import numpy as np
import pytest
import torch
from helpers import random_labelled, random_mixture, random_parts, refuses

from dgtoy import (
    MLP,
    Ensemble,
    GaussianMixture,
    LabelledMixture,
    Points,
    Recipe,
    ancestral,
    autoguidance,
    blurred,
    calibrate,
    cfg,
    domain_guidance,
    dpmpp_2m,
    euler,
    fit,
    guided,
    heun,
    karras,
    last,
    metrics,
    plane,
    relatives,
    reused,
    theory,
    trajectory,
    vp,
)
from dgtoy.calibration import calibrate_methods
from dgtoy.course.worlds import domains, glyphs
from dgtoy.dit import EDM, VP, DiT
from dgtoy.interop import add_lora
from dgtoy.likelihood import log_likelihood
from dgtoy.shipped.judge import FeatureNet
from dgtoy.train import batches

close = torch.testing.assert_close
T, NAN = torch.tensor, math.nan
MIXTURE, LABELLED = random_mixture(3, 2), random_labelled(6, 2, 2)
D, NET = MIXTURE.denoise, MLP(num_classes=3)
X = torch.randn(5, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIGMAS = karras(3, 0.1, 5.0)
WEIGHTS, MEANS, COVS = random_parts(3, 2, 0)
TWO = Ensemble.of([0, 1], num_classes=3)
SMALL = dict(input_size=4, patch_size=2, hidden_size=8, depth=1, num_heads=1, num_classes=3)
LABEL = torch.zeros(5, dtype=torch.long)
DATA = Points(torch.randn(2, 9, 2), torch.zeros(2, 9).long())
RECIPE = Recipe(steps=1, batch=2)
FLAT = lambda x, sigma: x[:, :1]
IMAGES, PROCESS = torch.ones(5, 3, 4, 4), vp.Process([3, 9])
NOISE, CHANNEL = (lambda x, t: x), (lambda x, t: x[:, :1])

WRONG = {
    # guidance
    "w is None": lambda: guided(D, D, None),
    "w is 'a'": lambda: guided(D, D, "a"),
    "w is 1j": lambda: guided(D, D, lambda sigma: 1j)(X, 1.0),
    "a is None": lambda: plane(D, D, D, None, 1.0),
    "main is None": lambda: guided(None, D, 2.0),
    "guide is a GaussianMixture": lambda: guided(D, MIXTURE, 2.0),
    "pretrained is None": lambda: domain_guidance(D, None, 2.0),
    "weaker is 5": lambda: autoguidance(D, 5, 2.0),
    "model is None; expected one with `denoiser(label)`": lambda: cfg(None, 0, 2, 2.0),
    "interval is (1,)": lambda: guided(D, D, 2.0, (1,)),
    "interval is None": lambda: guided(D, D, 2.0, None),
    "interval is 'ab'": lambda: plane(D, D, D, 2.0, 1.0, "ab"),
    "w has shape (3,)": lambda: guided(D, D, torch.ones(3), (0.1, 2.0))(X, torch.ones(5)),
    "b is '1'": lambda: blurred(D, "1"),
    "b is a Tensor": lambda: blurred(D, torch.ones(2)),
    "every is 1.5; expected a whole number": lambda: reused(D, 1.5),
    "shape (5, 2) and guide is a Tensor of torch.float64, shape (5, 1)": lambda: guided(D, FLAT, 2.0)(X, 1.0),
    "(5, 1) and finetuned_null is a Tensor of torch.float64": lambda: plane(FLAT, D, D, 0.0, 0.5)(X, 1.0),
    # levels and points
    "sigma is None": lambda: guided(D, D, 2.0)(X, None),
    "sigma has shape (5, 2); expected () or (5,)": lambda: D(X, torch.ones(5, 2)),
    "sigma has shape (5, 1); expected () or (5,) for x (5, 2)": lambda: guided(D, D, 2.0)(
        X, torch.ones(5, 1)
    ),
    "sigma has shape (5, 1, 1, 1); expected () or (5,) for x (5, 3, 4, 4)": lambda: guided(D, D, 2.0)(
        IMAGES, torch.ones(5, 1, 1, 1)
    ),
    "w has shape (5, 1, 1, 1); expected () or (5,) for x (5, 3, 4, 4)": lambda: guided(
        D, D, torch.ones(5, 1, 1, 1)
    )(IMAGES, 1.0),
    "sigma has shape (3,)": lambda: guided(D, D, 2.0, (0.1, 2.0))(X, torch.ones(3)),
    "sigma has shape (4,)": lambda: LABELLED.denoiser(T([0, 1, 0, 1, 2]))(X, torch.ones(4)),
    "sigma is 1e-60": lambda: NET.denoiser(0)(X.float(), 1e-60),
    "sigma is 1e+60": lambda: NET.denoiser(0)(X.float(), 1e60),
    "x is a Tensor of torch.int64": lambda: D(X.long(), 1.0),
    "x is a ndarray of float64": lambda: D(X.numpy(), 1.0),
    "x is [[0.0, 1.0]]": lambda: NET.denoiser(0)([[0.0, 1.0]], 1.0),
    "x, sigma, means reach 1e+200": lambda: D(X.clamp(1, 1) * 1e200, 1.0),
    "null is a Tensor of torch.int64, shape (0,)": lambda: cfg(LABELLED, 0, T([]).long(), 1.5),
    # metrics
    "mixture is None": lambda: metrics.out_of_domain(X, None),
    "mixture is 'a'": lambda: metrics.mode_coverage(X, "a"),
    "mixture is 3": lambda: metrics.thickness(X, 3, X),
    # samplers
    "sigmas is 'ab'": lambda: heun(D, X, "ab"),
    "sigmas is a Tensor of torch.complex64": lambda: heun(D, X, T([2 + 0j, 1 + 0j])),
    "D is None": lambda: heun(None, X, SIGMAS),
    "x_T is None": lambda: heun(D, None, SIGMAS),
    "x_T holds values that are not finite": lambda: heun(D, NAN * X, SIGMAS),
    "D gives a Tensor of torch.float64, shape (5, 1)": lambda: last(heun(FLAT, X, SIGMAS)),
    "generator is 5": lambda: ancestral(D, X, SIGMAS, 5),
    "generator is 'a'": lambda: dpmpp_2m(D, X, SIGMAS, eta=1.0, generator=[torch.Generator()] * 4 + ["a"]),
    "callback is 3; expected a function": lambda: euler(D, X, SIGMAS, callback=3),
    "interval is (2.0, 1.0)": lambda: heun(D, X, SIGMAS, churn=1.0, interval=(2, 1)),
    "n is True; expected a whole number": lambda: karras(True, 0.1, 1.0),
    "n is 1.5": lambda: karras(1.5, 0.1, 1.0),
    "rho is 0; expected a number in (0, inf)": lambda: karras(5, 0.1, 1.0, 0),
    "rho is 0.001; too small": lambda: karras(5, 0.1, 2.0, 1e-3),
    "sigma_min is None": lambda: karras(5, None, 1.0),
    "w is not finite at sigma = 1 in torch.float32": lambda: guided(D, D, 1e60)(X.float(), 1.0),
    "sigma is 1e+39; expected a finite value > 0 in torch.float32": lambda: heun(D, X.float(), [1e39, 1.0]),
    "sigma is 1e-09; expected a finite value > 0 in torch.float16": lambda: heun(D, X.half(), [1, 1e-9, 0]),
    "sigma is 1e-08; expected a finite value > 0 in torch.float16": lambda: heun(D, X.half(), [1, 1e-8]),
    "sigma is 1e+39; expected a finite value > 0": lambda: log_likelihood(D, X.float(), [1e39, 1.0]),
    "steps is empty": lambda: last([]),
    "every is nan": lambda: trajectory(X, heun(D, X, SIGMAS), NAN),
    "steps is None": lambda: trajectory(X, None),
    "x_T is a Tensor of torch.float64, shape (5, 2) and steps is 'a'": lambda: trajectory(X, ["a"]),
    "steps is a Tensor of torch.float64, shape (4, 2)": lambda: trajectory(X, heun(D, X[1:], SIGMAS)),
    # mixtures
    "weights is None": lambda: GaussianMixture(None, MEANS, COVS),
    "means is 'a'": lambda: GaussianMixture(WEIGHTS, "a", COVS),
    "covs is a Tensor of torch.complex64": lambda: GaussianMixture(WEIGHTS, MEANS, COVS.to(torch.cfloat)),
    "labels has dtype torch.float32": lambda: LabelledMixture(WEIGHTS, MEANS, COVS, T([0.5, 1.0, 0.0])),
    "labels has dtype torch.bool": lambda: LabelledMixture(WEIGHTS, MEANS, COVS, [True, False, True]),
    "label is None": lambda: LABELLED.denoiser(None),
    "label has shape (2,); expected one label": lambda: LABELLED.given(T([0, 1])),
    "n is 1.5; expected a whole": lambda: MIXTURE.sample(1.5),
    # DiT's process
    "generator is noise of shape (2, 1, 3, 4, 4); expected (2, 5, 3": lambda: vp.ancestral(
        NOISE, IMAGES, PROCESS, torch.zeros(2, 1, 3, 4, 4)
    ),
    "generator holds 1 generators; expected one for each entry of x (5, 3, 4, 4)": lambda: vp.ancestral(
        NOISE, IMAGES, PROCESS, [torch.Generator()]
    ),
    "guide is None; expected a function of x and t": lambda: vp.guided_noise(NOISE, None, 2.0),
    "shape (5, 1, 4, 4); expected (B, C or 2C, ...)": lambda: last(vp.ddim(CHANNEL, IMAGES, PROCESS)),
    "shape (5, 3, 4, 4); expected (B, 2C, ...)": lambda: last(vp.ancestral(NOISE, IMAGES, PROCESS)),
    "eps is a Tensor of torch.float32, shape (4, 4); expected tensors of one shape": lambda: PROCESS.noised(
        IMAGES, 0, IMAGES[0, 0]
    ),
    "shape (5, 3, 4, 4) and eps is 1.0; expected tensors of one shape": lambda: PROCESS.x0_hat(
        IMAGES, 0, 1.0
    ),
    "x0 is a Tensor of torch.float32, shape (1, 3, 4, 4)": lambda: vp.training_loss(
        IMAGES.repeat(1, 2, 1, 1), IMAGES[:1], IMAGES, 0, IMAGES, PROCESS
    ),
    "x_T holds values that are": lambda: vp.ddim(NOISE, NAN * IMAGES, PROCESS),
    "channels is 'a'": lambda: vp.guided_noise(NOISE, NOISE, 2.0, "a"),
    # relatives
    "pretrained is a MLP; expected a state dict": lambda: relatives.interpolated(NET, NET.state_dict(), 0.5),
    "weights has shape (1,); expected (2,)": lambda: relatives.Stepwise([2, 1, 0], [1.0]),
    "data holds values that are not finite; expected finite": lambda: relatives.self_consistent(
        D, D, NAN * X, [2.0, 1.0], [1.0]
    ),
    # closed forms
    "target is (1,); expected (mean, std)": lambda: theory.gaussian_guidance((1,), (0, 3), 1.5),
    "source is None": lambda: theory.gaussian_guidance((0, 3), None, 1.5),
    "w is None; expected numbers": lambda: theory.gaussian_guidance((0, 1), (0, 3), None),
    "a weight of parts is 100000": lambda: theory.gaussian_guidance((2, 1), (0, 3), 1e5),
    "mean or std overflows": lambda: theory.gaussian_guidance((2, 1), (0, 3), -2e3),
    "stds of parts are 1 to 1e+300": lambda: theory.gaussian_guidance((2, 1), (0, 1e300), 1.5),
    "means and stds of parts have shapes (3,), (3,), (2,)": lambda: theory.gaussian_guidance(
        (np.zeros(2), np.ones(2)), (np.zeros(3), np.ones(3)), 1.5
    ),
    "means and stds of parts have shape (0,)": lambda: theory.gaussian_guidance(
        (np.zeros(0), np.ones(0)), (0, 3), 1.5
    ),
    "w is nan": lambda: theory.tilted(MIXTURE, MIXTURE, NAN, X),
    "domains has shape (2,)": lambda: theory.alignment(LABELLED, [0, 1], 0, 0, X, 1.0),
    # networks and training
    "dim is 0; expected 1 or more": lambda: MLP(dim=0),
    "width is 1.5": lambda: MLP(width=1.5),
    "depth is -1": lambda: MLP(depth=-1),
    "seed is None": lambda: MLP(seed=None),
    "sigma_data is 0": lambda: MLP(sigma_data=0),
    "label 9 is out of range": lambda: NET(X.float(), 1.0, 9),
    "members[1] has sigma_data 1.0; expected 2.0": lambda: Ensemble([MLP(), MLP(sigma_data=1.0)]),
    "members is a MLP; expected networks": lambda: Ensemble(NET),
    "seeds is 3; expected": lambda: Ensemble.of(3),
    "members[1] is 5": lambda: Ensemble([MLP(), 5]),
    "k is 2": lambda: TWO.member(2),
    "steps is 1.5": lambda: Recipe(steps=1.5),
    "lr is None": lambda: Recipe(lr=None),
    "betas is None": lambda: Recipe(betas=None),
    "data is None": lambda: fit(TWO.clone(), None, RECIPE),
    "recipe is {}": lambda: fit(TWO.clone(), DATA, {}),
    "every is 0": lambda: fit(TWO.clone(), DATA, RECIPE, every=0),
    "in torch.float64; expected x0 of": lambda: fit(
        TWO.clone(), Points(DATA.x0.double(), DATA.label), RECIPE
    ),
    "ema is net itself": lambda: fit(TWO, DATA, RECIPE, ema=TWO),
    "ema: body.0.bias has shape (1, 128); expected (2, 128)": lambda: fit(
        TWO.clone(), DATA, RECIPE, ema=Ensemble.of([0], num_classes=3)
    ),
    "x0, label are None, None": lambda: Points(None, None),
    # distances
    "x is None": lambda: metrics.energy_distance(None, X),
    "y holds 5 samples that are not finite": lambda: metrics.energy_distance(X, NAN * X),
    "real holds 5 samples that are not": lambda: metrics.prdc(NAN * X, X, 2),
    "x holds 5 samples that are not": lambda: metrics.frechet_distance(X * math.inf, X),
    "x, y have shapes (5, 2), (5, 1)": lambda: metrics.energy_distance(X, X[:, :1]),
    "y has shape (2, 5, 2); expected (m, D) or (3, 'm', 'D')": lambda: metrics.energy_distance(
        X.expand(3, 5, 2), X.expand(2, 5, 2)
    ),
    "y has shape (1, 2); expected (n, D), 2 samples": lambda: metrics.frechet_distance(X, X[:1]),
    "k is 0": lambda: metrics.prdc(X, X, 0),
    "share is 2": lambda: metrics.threshold(MIXTURE, 9, 2),
    "level is nan": lambda: metrics.bootstrap([1.0, 2.0], level=NAN),
    "resamples is 0; expected 1 or more": lambda: metrics.bootstrap([1.0, 2.0], 0),
    "label 7 is out of range": lambda: metrics.class_error(X, 7, LABELLED),
    # calibration
    "data is None; expected points": lambda: calibrate(D, FLAT, None, [1.0]),
    "data holds numbers that are not finite in item 0": lambda: calibrate(D, FLAT, NAN * X, [1.0]),
    "data is a ndarray of float64, shape (5, 2)": lambda: calibrate(D, FLAT, X.numpy(), [1.0]),
    "data holds 3 things in item 0": lambda: calibrate(D, FLAT, [(X, X, X)], [1.0]),
    "and data has labels; expected label -> D": lambda: calibrate(D, FLAT, (X, X[:, 0].long()), [1.0]),
    "and data has no labels; expected D(x, sigma)": lambda: calibrate(LABELLED.denoiser, FLAT, X, [1.0]),
    "data holds points of shape (5,)": lambda: calibrate(D, FLAT, X[:, 0], [1.0]),
    "middle is 5": lambda: calibrate(D, FLAT, X, [1.0], 5),
    "guide gives None; expected an estimate": lambda: calibrate(D, lambda *_: None, X, [1.0]),
    "batch is True; expected a whole": lambda: calibrate(D, FLAT, X, [1.0], batch=True),
    "batch is 0": lambda: calibrate(D, FLAT, X, [1.0], batch=0),
    "b is not known": lambda: calibrate(D, CLASS, X, [1.0], resamples=2).b(1.0),
    "sigma is -1; expected noise levels": lambda: calibrate(D, CLASS, X, [1.0], resamples=2).w(-1.0),
}
CLASS = LABELLED.denoiser(0)
SEEDED = {  # every public entry that takes a seed, the pipeline's settings apart
    "MLP": lambda seed: MLP(seed=seed),
    "MLP.with_classes": lambda seed: NET.with_classes(2, seed),
    "Ensemble.of": lambda seed: Ensemble.of([0, seed]),
    "Ensemble.with_classes": lambda seed: TWO.with_classes(2, [0, seed]),
    "batches": lambda seed: batches(DATA, [0, seed], RECIPE, 3, 0, 2),
    "DiT": lambda seed: DiT(**SMALL, seed=seed),
    "DiT.with_classes": lambda seed: DiT(**SMALL).with_classes(2, seed),
    "EDM": lambda seed: EDM(DiT(**SMALL), seed=seed),
    "EDM.with_classes": lambda seed: EDM(DiT(**SMALL)).with_classes(2, seed),
    "add_lora": lambda seed: add_lora(VP(DiT(**SMALL)), 2, 1, seed),
    "calibrate_methods": lambda seed: calibrate_methods(lambda c: D, D, FLAT, (X, LABEL), [1.0], seed),
    "judge": lambda seed: FeatureNet(seed=seed),
    "domains.make": lambda seed: domains.make(layout=seed),
    "glyphs.target": lambda seed: glyphs.target(layout=seed),
    "Domain.data": lambda seed: domains.make().data(1, [0, seed]),
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_argument_is_named(words):
    with refuses(words, error=(TypeError, ValueError)):
        WRONG[words]()


@pytest.mark.parametrize("entry", SEEDED)
def test_a_seed_is_refused_that_torch_would_take_for_another(entry):
    for seed in (2**32, -(2**31) - 1):
        with refuses(f" is {seed}; expected a number in [-2147483648, 4294967295]"):
            SEEDED[entry](seed)


def test_seeds_that_differ_by_32_bits_draw_alike_and_no_others():
    def drawn(seed):
        return torch.rand(2, generator=torch.Generator().manual_seed(seed)).tolist()

    assert drawn(3) == drawn(3 + 2**32) and drawn(-1) == drawn(2**32 - 1)
    assert drawn(2**31) != drawn(2**31 - 1) != drawn(-1) != drawn(0)


def test_a_model_that_is_not_finite_stops_a_calibration_at_its_level_and_batch():
    broken = lambda x, sigma: x / (sigma - 1)
    with refuses("the models are not finite at sigma = 1 in batch 0", error=FloatingPointError):
        calibrate(broken, D, X, [2.0, 1.0])


@pytest.mark.parametrize("dtype", (torch.half, torch.bfloat16, torch.float32))
def test_far_out_and_in_low_precision_a_mixture_is_that_of_double_precision(dtype):
    x = T([[1e3, -2e3], [3e30, 1e31], [-1e35, 4e37]], dtype=torch.float64).clamp(*limits(dtype)).to(dtype)
    for f in (MIXTURE.logp, MIXTURE.score, MIXTURE.denoise, MIXTURE.log_responsibilities):
        found, truth = f(x, 0.5), f(x.double(), 0.5).clamp(*limits(dtype))
        assert found.dtype == dtype and found.isfinite().all()
        close(found, truth.to(dtype), rtol=2e-2 if dtype == torch.bfloat16 else 2e-3, atol=0.1)


def limits(dtype):
    return torch.finfo(dtype).min, torch.finfo(dtype).max


def test_components_narrower_than_single_precision_can_say():
    narrow = GaussianMixture([1.0], [[0.0]], T([[[1e-60]]], dtype=torch.float64))
    close(narrow.logp(torch.zeros(1, 1)), narrow.logp(torch.zeros(1, 1).double()).float())


def test_a_gradient_reaches_the_parameters_of_a_mixture():
    means = MEANS.clone().requires_grad_()
    (found,) = torch.autograd.grad(GaussianMixture(WEIGHTS, means, COVS).logp(X, 0.5).sum(), means)
    h = 1e-6 * torch.eye(2, dtype=torch.float64)[0]
    moved = [GaussianMixture(WEIGHTS, MEANS + s * h, COVS).logp(X, 0.5).sum() for s in (1, -1)]
    close((moved[0] - moved[1]) / 2e-6, found[:, 0].sum(), rtol=1e-5, atol=1e-6)


def test_a_network_computes_in_its_own_precision_and_answers_in_that_of_x():
    one, other = NET.denoiser(1)(X, 0.5), NET.denoiser(1)(X.float(), 0.5)
    assert one.dtype == torch.float64 and torch.equal(one.float(), other)


def test_a_sampler_keeps_the_precision_of_its_noise():
    rough = lambda x, sigma: D(x, sigma).half()
    assert last(heun(rough, X.float(), SIGMAS)).dtype == torch.float32


def test_samples_that_are_not_finite_are_outside_of_no_class_and_of_no_mode():
    assert metrics.out_of_domain(NAN * X, MIXTURE, -9.0) == 1
    assert metrics.class_error(NAN * X, 0, LABELLED) == 1
    assert metrics.mode_coverage(NAN * X, MIXTURE) == 0


def test_sets_of_two_precisions_and_arrays_are_compared():
    y = X + 1
    close(metrics.energy_distance(X.float(), y), metrics.energy_distance(X, y), rtol=1e-5, atol=1e-6)
    close(metrics.frechet_distance(X.numpy(), y.numpy()), metrics.frechet_distance(X, y))

"""Noise levels, and samplers: generators over x, from noise to data.

They integrate the probability-flow ODE dx/dsigma = (x - D(x, sigma)) / sigma from sigmas[0] to sigmas[-1], or
its stochastic companion. Each yields x after every step, keeps no gradient graph and holds one step at a
time, so memory does not grow with the steps. `last` keeps only the end. A `callback(i, sigma, x, x0_hat)`, if
given, sees step i where it starts: x = x0_hat + sigma eps. At the call, before the first step, each raises
TypeError or ValueError, naming the argument, for what it cannot sample with; at a step ValueError for an
estimate of another shape than x.
"""

import collections
import functools
import inspect
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from .checks import (
    check_alike,
    check_callable,
    check_denoisers,
    check_estimate,
    check_finite,
    check_interval,
    check_levels,
    check_noise,
    check_number,
    check_numbers,
    check_points,
    check_whole,
    shown,
)

Denoiser = Callable[[Tensor, Tensor], Tensor]  # D(x (B, *D), sigma () or (B,)) -> x0_hat (B, *D)

# noise levels


def karras(n: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Tensor:
    """n noise levels from sigma_max to sigma_min, evenly spaced in sigma^(1/rho), then 0: (n + 1,) float64.

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho. Karras et al. 2022,
    eq. 5. Raises ValueError unless n >= 1, 0 < sigma_min < sigma_max and rho > 0, and for a rho so small that
    levels coincide.
    """
    n, sigma_min, sigma_max = _ends(n, sigma_min, sigma_max)
    rho = check_number("rho", rho, "(0, inf)")
    ramp = torch.linspace(0, 1, n, dtype=torch.float64, device="cpu")
    try:
        top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    except OverflowError:
        top = bottom = math.inf
    sigmas = (top + ramp * (bottom - top)) ** rho
    return _then_zero(sigmas, f"rho is {rho}; too small to tell levels from {sigma_max} to {sigma_min} apart")


def exponential(n: int, sigma_min: float, sigma_max: float) -> Tensor:
    """n noise levels from sigma_max to sigma_min, evenly spaced in ln sigma, then 0: (n + 1,) float64.

    The limit of `karras` for a large rho. Raises ValueError unless n >= 1 and 0 < sigma_min < sigma_max, and
    where levels coincide.
    """
    n, sigma_min, sigma_max = _ends(n, sigma_min, sigma_max)
    ln = torch.linspace(math.log(sigma_max), math.log(sigma_min), n, dtype=torch.float64, device="cpu")
    came = f"sigma_min, sigma_max are {sigma_min}, {sigma_max}"
    return _then_zero(ln.exp(), f"{came}; expected room for {n} levels between them")


def _then_zero(levels, wrong):
    """Levels (n,), then 0. Raises ValueError, in these words, unless they are finite, positive and fall."""
    if not (levels.diff() < 0).all() or not 0 < levels[-1] <= levels[0] < math.inf:
        raise ValueError(wrong)
    return torch.cat([levels, levels.new_zeros(1)])


def _ends(n, sigma_min, sigma_max):
    """The number of levels and the two ends, checked."""
    n = check_whole("n", n)
    if n < 1:
        raise ValueError(f"n is {n}; a schedule needs at least 1 step")
    sigma_min = check_number("sigma_min", sigma_min)
    sigma_max = check_number("sigma_max", sigma_max)
    if not 0 < sigma_min < sigma_max < math.inf:
        raise ValueError(
            f"sigma_min, sigma_max are {sigma_min}, {sigma_max}; "
            "expected 0 < sigma_min < sigma_max, both finite"
        )
    return n, sigma_min, sigma_max


def log_normal(z: Tensor, P_mean: float = -0.5, P_std: float = 1.6) -> Tensor:
    """Training noise levels from standard normals z: ln sigma = P_mean + P_std z.  (...) -> (...)

    Karras et al. 2022, table 1, where P_mean is -1.2 and P_std 1.2.
    """
    return torch.exp(P_mean + P_std * z)


def pairs(sigmas):
    """The steps (sigma, sigma_next) of a schedule (n + 1,), as numbers in double precision.

    Raises ValueError unless the levels are finite, strictly decreasing and end at 0 or above.
    """
    sigmas = check_numbers("sigmas", sigmas, torch.float64).double()
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(
            f"sigmas has shape {tuple(sigmas.shape)}; expected (steps + 1,) with at least one step"
        )
    sigmas = sigmas.tolist()
    if not all(map(math.isfinite, sigmas)) or sigmas[-1] < 0:
        raise ValueError(
            f"sigmas runs from {sigmas[0]:g} to {sigmas[-1]:g}; expected finite levels ending at 0 or above"
        )
    steps = list(itertools.pairwise(sigmas))
    for i, (sigma, sigma_next) in enumerate(steps, 1):
        if sigma_next >= sigma:
            raise ValueError(f"sigmas[{i}] = {sigma_next:g} follows {sigma:g}; a schedule must decrease")
    return steps


# samplers


def _sampler(steps):
    """Check what comes in at the call; give D its sigma in x's dtype, on x's device; keep no graph."""
    bind = inspect.signature(steps).bind
    steps = torch.no_grad()(steps)  # on while the generator works, and the caller's own in between

    @functools.wraps(steps)
    def sample(D, x_T, sigmas, *args, **kwargs):
        check_denoisers(D=D)
        check_points(x_T=x_T)
        check_finite(x_T=x_T)
        check_levels([sigma for step in pairs(sigmas) for sigma in step if sigma > 0], x_T)
        given = bind(functools.partial(estimate, D), x_T, sigmas, *args, **kwargs).arguments
        for name in given.keys() & {"churn", "inflate", "eta"}:
            given[name] = check_number(name, given[name], "[0, inf)")
        if "interval" in given:
            given["interval"] = check_interval(given["interval"])
        check_noise(given.get("generator"), x_T)
        if given.get("callback") is not None:
            check_callable("a function of i, sigma, x, x0_hat", callback=given["callback"])
        return steps(**given)

    return sample


def estimate(D, x, sigma):
    """D(x, sigma) for a number sigma, in x's dtype. Raises ValueError for an estimate of another shape."""
    return check_estimate("D", D(x, x.new_full((), sigma)), x).to(x.dtype)


@_sampler
def euler(D: Denoiser, x_T: Tensor, sigmas: Tensor, callback: Callable | None = None) -> Iterator[Tensor]:
    """First order: x + (sigma_next - sigma) (x - x0_hat) / sigma. One call per step; equals DDIM.

    Yields x (B, *D).
    """
    x = x_T
    for i, (sigma, sigma_next) in enumerate(pairs(sigmas)):
        x0_hat = D(x, sigma)
        if callback:
            callback(i, sigma, x, x0_hat)
        x = x + (sigma_next - sigma) * (x - x0_hat) / sigma
        yield x


@_sampler
def heun(
    D: Denoiser,
    x_T: Tensor,
    sigmas: Tensor,
    callback: Callable | None = None,
    churn: float = 0.0,
    interval: tuple = (0.0, math.inf),
    inflate: float = 1.0,
    generator=None,
) -> Iterator[Tensor]:
    """Second order: average the slope at both ends of the step. Two calls per step, one in a step to 0.

    churn: noise added before each step whose level lies in `interval`, from sigma to sigma_hat = (1 + gamma)
    sigma with gamma = min(churn / n, sqrt(2) - 1), n the number of steps; times `inflate`, which makes up
    for a denoiser that takes too much away. 0 is the probability-flow ODE. In the paper S_churn, S_tmin and
    S_tmax, S_noise. generator: as of `ancestral`. Karras et al. 2022, algorithms 1 and 2. Yields x (B, *D).
    """
    x, steps = x_T, pairs(sigmas)
    low, high = interval
    gamma = min(churn / len(steps), math.sqrt(2) - 1)
    for i, (sigma, sigma_next) in enumerate(steps):
        if gamma > 0 and low <= sigma <= high:
            added = sigma * math.sqrt((1 + gamma) ** 2 - 1)
            x = x + inflate * added * normal(x, generator)
            sigma = (1 + gamma) * sigma
        x0_hat = D(x, sigma)
        if callback:
            callback(i, sigma, x, x0_hat)
        slope = (x - x0_hat) / sigma
        x_next = x + (sigma_next - sigma) * slope
        if sigma_next > 0:
            slope_next = (x_next - D(x_next, sigma_next)) / sigma_next
            x_next = x + (sigma_next - sigma) * (slope + slope_next) / 2
        x = x_next
        yield x


@_sampler
def dpmpp_2m(
    D: Denoiser,
    x_T: Tensor,
    sigmas: Tensor,
    callback: Callable | None = None,
    eta: float = 0.0,
    generator=None,
) -> Iterator[Tensor]:
    """Second order with one call per step, by remembering the step before: DPM-Solver++(2M), and its SDE.

    In h = ln(sigma / sigma_next): x e^(-(1 + eta) h) + (1 - e^(-(1 + eta) h)) (x0_hat + (x0_hat -
    x0_hat_prev) h / (2 h_prev)) + sigma_next sqrt(1 - e^(-2 eta h)) noise. eta: 0 is the ODE, 1 the SDE of
    the reversed diffusion. generator: as of `ancestral`. Lu et al. 2022, algorithm 2, and its SDE-DPM-
    Solver++(2M). Yields x (B, *D).
    """
    x, x0_hat_prev, h_prev = x_T, None, None
    for i, (sigma, sigma_next) in enumerate(pairs(sigmas)):
        x0_hat = D(x, sigma)
        if callback:
            callback(i, sigma, x, x0_hat)
        if sigma_next == 0:
            yield x0_hat
            return
        h = math.log(sigma / sigma_next)
        target = x0_hat
        if i > 0:
            target = x0_hat + (x0_hat - x0_hat_prev) * h / (2 * h_prev)
        x = (sigma_next / sigma) * math.exp(-eta * h) * x - math.expm1(-(1 + eta) * h) * target
        if eta > 0:
            x = x + sigma_next * math.sqrt(-math.expm1(-2 * eta * h)) * normal(x, generator)
        x0_hat_prev, h_prev = x0_hat, h
        yield x


@_sampler
def ancestral(
    D: Denoiser,
    x_T: Tensor,
    sigmas: Tensor,
    generator=None,
    callback: Callable | None = None,
    eta: float = 1.0,
) -> Iterator[Tensor]:
    """Stochastic: x0_hat is blurred back to sigma_next with the exact variance of q(x_next | x, x0).

    x0_hat + k (x - x0_hat) + sigma_next sqrt(1 - (sigma_next / sigma)^(2 eta)) eps with k = (sigma_next /
    sigma)^(1 + eta). eta: 1 is Ho et al. 2020 in the variance-exploding form, 0 is `euler`; between, and
    above, the first order of `dpmpp_2m`'s SDE. generator: a torch.Generator, or a list of them, one for each
    entry of x's first axis. Yields x (B, *D).
    """
    x = x_T
    for i, (sigma, sigma_next) in enumerate(pairs(sigmas)):
        x0_hat = D(x, sigma)
        if callback:
            callback(i, sigma, x, x0_hat)
        ratio = sigma_next / sigma
        x = x0_hat + ratio ** (1 + eta) * (x - x0_hat)
        if sigma_next > 0 and eta > 0:
            x = x + sigma_next * math.sqrt(1 - ratio ** (2 * eta)) * normal(x, generator)
        yield x


def last(steps: Iterable[Tensor]) -> Tensor:
    """The last item of a sampler (or of any iterable), holding one at a time.

    Raises TypeError for what is no iterable, ValueError for an empty one.
    """
    _check_steps(steps)
    found = collections.deque(steps, maxlen=1)
    if not found:
        raise ValueError("steps is empty; expected a sampler, or an iterable that holds something")
    return found[0]


def trajectory(x_T: Tensor, steps: Iterable[Tensor], every: int = 1) -> Tensor:
    """x_T and every `every`-th iterate of a sampler, stacked.  -> (1 + n // every, B, *D), on the CPU

    Raises ValueError if every < 1, or an iterate has another shape than x_T.
    """
    check_whole("every", every, 1)
    check_points(x_T=x_T)
    _check_steps(steps)
    kept = [x_T.detach().cpu()]
    for i, x in enumerate(steps, 1):
        if i % every == 0:
            check_alike(x_T=x_T, steps=x)
            kept.append(x.cpu())
    return torch.stack(kept)


def _check_steps(steps):
    """Raise TypeError for what is no sampler and no other iterable."""
    if not isinstance(steps, Iterable):
        raise TypeError(f"steps is {shown(steps)}; expected a sampler, or another iterable")


def normal(x, generator=None):
    """Standard normals like x; a list of generators draws the entries of x's first axis one by one."""
    check_noise(generator, x)
    if isinstance(generator, list | tuple):
        rows = [normal(row, g) for row, g in zip(x, generator)]
        return torch.stack(rows) if rows else x
    device = x.device if generator is None else generator.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)

"""Samplers: generators over x, from noise to data. One step of each is a few lines; `last` keeps only the end.

They integrate the probability-flow ODE dx/dsigma = (x - D(x, sigma)) / sigma from sigmas[0] to sigmas[-1], or its
stochastic companion. Each yields x after every step and keeps nothing, so memory does not grow with the steps.
"""

import collections

import torch

from .schedules import steps_of


def euler(D, x_T, sigmas):
    """First order: x + (t - s) (x - D(x, s)) / s. One call a step; equals DDIM. Yields x (B, *D)."""

    def step(x, s, t):
        return x + (t - s) * (x - D(x, s)) / s

    return _run(step, x_T, sigmas)


def heun(D, x_T, sigmas):
    """Second order: average the slope at both ends of the step. Two calls a step, one in the step that ends at 0.

    Karras et al. 2022, algorithm 1. Yields x (B, *D).
    """

    def step(x, s, t):
        slope = (x - D(x, s)) / s
        ahead = x + (t - s) * slope
        if t == 0:
            return ahead
        return x + (t - s) * (slope + (ahead - D(ahead, t)) / t) / 2

    return _run(step, x_T, sigmas)


def dpmpp_2m(D, x_T, sigmas):
    """Second order with one call a step, by remembering the step before: DPM-Solver++(2M), Lu et al. 2022, algorithm 2.

    Yields x (B, *D).
    """
    before = None  # (D, log step) of the step before

    def step(x, s, t):
        nonlocal before
        x0_hat = D(x, s)
        if t == 0:
            return x0_hat
        h = torch.log(s / t)
        target = x0_hat
        if before is not None:
            previous, h_previous = before
            target = x0_hat + (x0_hat - previous) * h / (2 * h_previous)
        before = x0_hat, h
        return (t / s) * x - torch.expm1(-h) * target

    return _run(step, x_T, sigmas)


def ancestral(D, x_T, sigmas, generator=None):
    """Stochastic: x0_hat is blurred back to level t with the exact variance of q(x_t | x_s, x0). Yields x (B, *D).

    x_t = D + (t/s)^2 (x - D) + t sqrt(1 - (t/s)^2) eps, Ho et al. 2020 in the variance-exploding form.
    generator: a torch.Generator, or a list of them, one for each entry of x's first axis.
    """

    def step(x, s, t):
        x0_hat = D(x, s)
        keep = (t / s) ** 2
        mean = x0_hat + keep * (x - x0_hat)
        return mean + t * (1 - keep).sqrt() * normal(x, generator) if t > 0 else mean

    return _run(step, x_T, sigmas)


def last(steps):
    """The last item of a sampler (or of any iterable), holding one at a time."""
    (x,) = collections.deque(steps, maxlen=1)
    return x


def trajectory(x_T, steps, every=1):
    """x_T and every `every`-th iterate of a sampler, stacked.  -> (1 + n // every, B, *D), on the CPU"""
    if every < 1:
        raise ValueError(f"every is {every}; expected 1 or more steps")
    kept = [x_T.cpu()] + [x.cpu() for i, x in enumerate(steps, 1) if i % every == 0]
    return torch.stack(kept)


def normal(x, generator=None):
    """Standard normals like x; a list of generators draws the entries of x's first axis one by one."""
    if isinstance(generator, (list, tuple)):
        if len(generator) != len(x):
            raise ValueError(
                f"generator holds {len(generator)} generators; expected {len(x)}, one for each entry of x {tuple(x.shape)}"
            )
        return torch.stack([normal(row, g) for row, g in zip(x, generator, strict=True)])
    device = generator.device if generator is not None else x.device
    return torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)


def _run(step, x, sigmas):
    """A generator over x; the schedule is checked at the call, before any work."""
    pairs = steps_of(sigmas)

    def iterate(x):
        for s, t in pairs:
            x = step(x, s, t)
            yield x

    return iterate(x)

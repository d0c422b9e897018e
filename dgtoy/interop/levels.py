"""Noise levels of a diffusers scheduler, as sigma of x = x0 + sigma eps, whatever its process.

A network sees x_t = x / sqrt(1 + sigma^2) of a variance-preserving process, or x_t = x / (1 + sigma) of flow
matching, where sigma = t / (1 - t). In place of a scheduler, a pipeline that has one will do.
"""

import numpy as np
import torch

from ..checks import check_numbers, shown

LARGEST = 2.0**12  # sigma where alphas_cumprod is 0, and of t = 1 in a flow: close to no signal at all


def scheduler_of(scheduler):
    """A scheduler, or that of a pipeline. Raises ValueError for what is neither."""
    found = getattr(scheduler, "scheduler", scheduler)
    if not hasattr(found, "config"):
        raise ValueError(f"scheduler is {shown(found)}; expected one of diffusers, or a pipeline")
    return found


def is_flow(scheduler):
    """Whether its process is flow matching; else it is variance-preserving. Raises ValueError for others."""
    config = scheduler.config
    flow = getattr(config, "prediction_type", None) == "flow_prediction"
    if flow or getattr(config, "use_flow_sigmas", False) or type(scheduler).__name__.startswith("FlowMatch"):
        return True
    if not hasattr(scheduler, "alphas_cumprod"):
        came = type(scheduler).__name__
        raise ValueError(f"scheduler is a {came}; expected one with alphas_cumprod, or of flow matching")
    return False


def predicts(scheduler):
    """What its network predicts: "epsilon", "v_prediction" or "flow". Raises ValueError for another."""
    kind = "flow" if is_flow(scheduler) else scheduler.config.prediction_type
    if kind not in ("flow", "epsilon", "v_prediction"):
        raise ValueError(f"scheduler predicts {kind}; expected epsilon, v_prediction or a flow")
    return kind


def sigma_to_t(sigma, scheduler):
    """The timesteps of noise levels, between two by interpolation of ln sigma.  (*S) -> (*S) float64

    An interval in sigma is one in timesteps: `sigma_to_t((0.3, 5.0), pipe)`. Raises ValueError for sigma
    below 0.
    """
    scheduler = scheduler_of(scheduler)
    sigma = check_numbers("sigma", sigma, torch.float64).cpu().double()
    if not (sigma >= 0).all():
        raise ValueError(f"sigma is {sigma.tolist()}; expected noise levels from 0 on")
    if is_flow(scheduler):
        return scheduler.config.num_train_timesteps / (1 + 1 / sigma)  # also of 0 and inf
    log_sigmas = _log_sigmas(scheduler)
    return torch.as_tensor(np.interp(sigma.log().numpy(), log_sigmas, np.arange(len(log_sigmas))))


def t_to_sigma(t, scheduler):
    """The noise levels of timesteps, the inverse of `sigma_to_t`.  (*S) -> (*S) float64

    Raises ValueError for timesteps that the scheduler does not have.
    """
    scheduler = scheduler_of(scheduler)
    t = check_numbers("t", t, torch.float64).cpu().double()
    last = scheduler.config.num_train_timesteps
    first = 0 if is_flow(scheduler) else -last  # a solver that inverts begins below 0
    if not ((first <= t) & (t <= last)).all():
        raise ValueError(f"t is {t.tolist()}; expected timesteps from 0 to {last}")
    if is_flow(scheduler):
        tau = t / last  # the flow's own time
        return (tau / (1 - tau)).clamp(max=LARGEST)
    log_sigmas = _log_sigmas(scheduler)
    return torch.as_tensor(np.exp(np.interp(t.numpy(), np.arange(len(log_sigmas)), log_sigmas)))


def _log_sigmas(scheduler):
    """ln sigma of every training timestep.  -> (T,) array, rising"""
    alphas_cumprod = scheduler.alphas_cumprod.cpu().double().clamp(min=1 / (1 + LARGEST**2))
    return (1 / alphas_cumprod - 1).sqrt().log().numpy()


def blurred_prediction(sigma, b, scheduler):
    """How a network predicts for its own density blurred by b: k p(r x_t, t) - c x_t.  -> t, r, k, c

    That is `dgtoy.blurred` in terms of the prediction p: eps_b = sigma / s eps(x, s), s^2 = sigma^2 + b^2.
    """
    s = (sigma**2 + b**2) ** 0.5
    t, kind = sigma_to_t(s, scheduler).item(), predicts(scheduler)
    if kind == "flow":
        shrunk = (1 + sigma) / (s * (1 + s))
        return t, (1 + sigma) / (1 + s), sigma * shrunk, shrunk * b**2 * (1 + 1 / (s + sigma))
    r = ((1 + sigma**2) / (1 + s**2)) ** 0.5
    if kind == "epsilon":
        return t, r, sigma / s, 0.0
    return t, r, sigma / s * r, sigma * b**2 / (1 + s**2)


def level(t, scheduler):
    """The noise level sigma of a timestep, a number. Raises ValueError without a scheduler."""
    if scheduler is None:
        raise ValueError("scheduler is None; expected the pipeline's, for `interval` and `blur`")
    return t_to_sigma(t, scheduler).item()


def is_inside(interval, t, scheduler):
    """Whether the noise level of a timestep lies in an interval, ends included."""
    return interval[0] <= level(t, scheduler) <= interval[1]

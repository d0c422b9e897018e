"""Noise levels as data: sampling schedules and training distributions."""

import math

import torch


def karras(n, lo, hi, rho=7.0):
    """n noise levels from hi down to lo, evenly spaced in sigma^(1/rho), and a final 0.  -> (n + 1,) float64

    sigma_i = (hi^(1/rho) + i/(n-1) (lo^(1/rho) - hi^(1/rho)))^rho. Karras et al. 2022, eq. 5.
    The levels stay on the CPU: samplers read them one by one, and a GPU is never asked to wait.
    Raises ValueError unless n >= 1 and 0 < lo < hi.
    """
    if n < 1:
        raise ValueError(f"n is {n}; a schedule needs at least 1 step")
    if not 0 < lo < hi < math.inf:
        raise ValueError(f"lo, hi are {lo}, {hi}; expected 0 < lo < hi, both finite")
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    sigmas = (hi ** (1 / rho) + ramp * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


def log_normal(z, mean=-0.5, std=1.6):
    """Training noise levels from standard normals: ln sigma = mean + std z. Karras et al. 2022, table 1."""
    return torch.exp(mean + std * z)


def steps_of(sigmas):
    """The pairs (sigma, next sigma) of a schedule (n + 1,), after checking that it can be sampled.

    Raises ValueError unless the levels are finite, strictly decreasing and end at 0 or above.
    """
    sigmas = torch.as_tensor(sigmas)
    if sigmas.ndim != 1 or len(sigmas) < 2:
        raise ValueError(
            f"sigmas has shape {tuple(sigmas.shape)}; expected (steps + 1,) with at least one step"
        )
    if not sigmas.isfinite().all() or sigmas[-1] < 0:
        raise ValueError(
            f"sigmas runs from {sigmas[0]:g} to {sigmas[-1]:g}; expected finite levels ending at 0 or above"
        )
    rises = (sigmas.diff() >= 0).nonzero()
    if len(rises):
        i = int(rises[0])
        raise ValueError(
            f"sigmas[{i + 1}] = {sigmas[i + 1]:g} follows {sigmas[i]:g}; a schedule must decrease"
        )
    return list(zip(sigmas[:-1], sigmas[1:]))


def checked(sigma, x, zero=False):
    """sigma as a tensor of x's dtype and device that broadcasts against x (*B, *D): 0-d, or (*B, 1, ...).

    zero: whether sigma = 0 is meaningful (a density has a score there, a denoiser has nothing to do).
    Raises ValueError if sigma is negative, 0 where it must not be, not finite, or of a shape that does not lead x's.
    """
    sigma = sigma if torch.is_tensor(sigma) else torch.as_tensor(sigma, dtype=torch.float64)
    if tuple(sigma.shape) != tuple(x.shape[: sigma.ndim]):
        raise ValueError(
            f"sigma has shape {tuple(sigma.shape)}; expected () or {tuple(x.shape[:1])} for x {tuple(x.shape)}"
        )
    if sigma.device.type == "cpu":  # a check on a GPU would wait for it at every step
        bad = ~sigma.isfinite() | (sigma < 0 if zero else sigma <= 0)
        if bad.any():
            raise ValueError(
                f"sigma is {sigma[bad].flatten()[0]:g}; expected a finite value {'>= 0' if zero else '> 0'}"
            )
    sigma = sigma.to(x.device, x.dtype)
    return sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim)) if sigma.ndim else sigma

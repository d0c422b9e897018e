"""How likely a point is under a denoiser's probability flow."""

import itertools
import math

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from .checks import check_denoisers, check_finite, check_levels, check_points, check_whole
from .samplers import Denoiser, estimate, normal, pairs


@torch.inference_mode(False)  # which knows no derivatives
def log_likelihood(
    D: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    probes: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """log p(x), in nats, of points at the lowest level of a schedule above 0.  (B, *D) -> (B,)

    Along the flow dx/dsigma = f(x, sigma) = (x - D(x, sigma)) / sigma the log-density falls by div f. So x is
    carried up to sigma_max = sigmas[0], by Runge-Kutta steps of fourth order in ln sigma:
        log p(x) = log N(x_T; D(x_T, sigma_max), sigma_max^2 I) + integral of div f dsigma.
    The prior is right to (std of the data / sigma_max)^2. sigmas (n + 1,): as samplers take it; a last level
    of 0 is left out. Where D jumps, as guidance on an interval does at its ends, one step is off, by up to a
    tenth of a nat, unless a level lies close on either side of the jump. probes: None for the exact
    divergence, one derivative for each number of a point; or how many random directions estimate it
    (Hutchinson), drawn once, by `generator`. D may be called without a gradient: the derivatives are forward
    ones. Chen et al. 2018; Song et al. 2021, eq. 39. Raises ValueError for a schedule without two
    levels above 0, and as samplers do.
    """
    check_denoisers(D=D)
    check_points(x=x)
    if x.ndim < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}; expected points (B, *D)")
    check_finite(x=x)
    steps = pairs(sigmas)
    levels = [steps[0][0]] + [end for _, end in steps if end > 0]
    if len(levels) < 2:
        raise ValueError(f"sigmas holds {len(levels)} level above 0; expected two or more")
    check_levels(levels, x)
    if probes is None:
        directions = torch.eye(x.shape[1:].numel(), dtype=x.dtype, device=x.device).unflatten(
            1, (1, *x.shape[1:])
        )
        directions = directions.expand(-1, *x.shape)  # (D, B, *D)
    else:
        shape = x.new_empty(check_whole("probes", probes, 1), *x.shape)
        directions = normal(shape, generator).sign() / math.sqrt(probes)  # (probes, B, *D)
    x = x.detach().clone(memory_format=torch.contiguous_format)
    total = x.new_zeros(len(x), dtype=torch.float64)
    for low, high in itertools.pairwise(levels[::-1]):
        step, middle = math.log(high / low), math.sqrt(low * high)
        first, d_first = _slope(D, x, low, directions)
        second, d_second = _slope(D, x + step / 2 * first, middle, directions)
        third, d_third = _slope(D, x + step / 2 * second, middle, directions)
        fourth, d_fourth = _slope(D, x + step * third, high, directions)
        x = x + step / 6 * (first + 2 * second + 2 * third + fourth)
        total += step / 6 * (d_first + 2 * d_second + 2 * d_third + d_fourth)
    eps = (x - estimate(D, x, levels[0])).detach().double().flatten(1) / levels[0]  # (B, D)
    prior = -(eps**2 / 2 + math.log(levels[0]) + math.log(2 * math.pi) / 2).sum(1)
    return prior + total


@torch.no_grad()
def _slope(D, x, sigma, directions):
    """dx/d ln sigma = x - D(x, sigma), and its divergence from derivatives along `directions`: as x, (B,)."""
    change = x.new_zeros(len(x), dtype=torch.float64)
    with sdpa_kernel(SDPBackend.MATH):  # the fused ones have no forward derivative
        for v in directions:
            with forward_ad.dual_level():
                dual = forward_ad.make_dual(x, v.contiguous())
                slope, along = forward_ad.unpack_dual(dual - estimate(D, dual, sigma))
            change += (v * along).flatten(1).sum(1).double()
    return slope, change

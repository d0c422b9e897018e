"""Relatives of guidance: what else can be done with a main model and a guide.

All take denoisers and give a denoiser, as in `guidance`, whose main model is pushed away from a guide that
may be any: `apg(finetuned, pretrained, w)` is Domain Guidance with a projected update. Some are only a weight
w(sigma), or only a guide, and then go where `guided` takes one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from .checks import (
    check_alike,
    check_callable,
    check_denoisers,
    check_finite,
    check_generator,
    check_number,
    check_numbers,
    check_points,
    check_sigma,
    check_whole,
    shown,
)
from .guidance import Run, Weight, check_weights, guided
from .metrics import energy_distance
from .samplers import Denoiser, exponential, heun, last, normal, pairs

# the update, changed


def apg(
    main: Denoiser,
    guide: Denoiser,
    w: Weight,
    eta: float = 0.0,
    radius: float = math.inf,
    momentum: float = 0.0,
    interval: tuple[float, float] = (0.0, math.inf),
    axes: tuple[int, ...] | None = None,
) -> Denoiser:
    """Adaptive projected guidance: D_main + (w - 1) (d_orthogonal + eta d_parallel).

    d = D_main - D_guide + momentum d_before, shortened to |d| <= radius; parallel and orthogonal to D_main.
    d_before is that of the level before, so a momentum (the paper's is -0.5) wants a sampler with one call
    per step; a level that is not below the one before, or an x of another shape, begins a new run. axes: of
    one sample, by default all but the first. eta = 1 with the other defaults is `guided`. Raises ValueError
    for a radius <= 0, or axes that a sample lacks. Sadat et al. 2024 (arXiv 2410.02416), algorithm 1.
    """
    eta = check_number("eta", eta, "(-inf, inf)")
    momentum = check_number("momentum", momentum, "(-inf, inf)")
    radius = check_number("radius", radius, "(0, inf]")
    run, d_before = Run(), 0.0

    def away(x, sigma, x0_hat, other):
        nonlocal d_before
        d = x0_hat - other
        if momentum:
            d = d if run.begins(x, sigma) else d + momentum * d_before
            d_before = d
        if radius < math.inf:
            square = _dot(d, d, axes)
            length = torch.where(square > 0, square, torch.finfo(square.dtype).tiny).sqrt()
            d = d * (radius / length).clamp(max=1.0).to(d.dtype)
        parallel = _projected(d, x0_hat, axes)
        return x0_hat - (d - parallel + eta * parallel)

    return _reguided(main, guide, w, interval, away)


def cfg_zero_star(
    main: Denoiser,
    guide: Denoiser,
    w: Weight,
    still_above: float = math.inf,
    interval: tuple[float, float] = (0.0, math.inf),
    axes: tuple[int, ...] | None = None,
) -> Denoiser:
    """CFG-Zero*: v + (w - 1) (v - s v_guide), the guide's velocity scaled to come closest to the main one.

    For a flow x_t = (1 - t) x0 + t eps, t = sigma / (1 + sigma), the velocity of D is (x - (1 + sigma) D) /
    sigma, and D_still = x / (1 + sigma) has none. So the guide is the projection of D_main on the line
    through D_still and D_guide, s = <D_main - D_still, D_guide - D_still> / |D_guide - D_still|^2. At levels
    above `still_above` nothing moves (the paper's zero-init: its first step). axes: of one sample, by default
    all but the first. Raises ValueError for a `still_above` that is nan, or axes that a sample lacks. Fan et
    al. 2025 (arXiv 2503.18886), algorithm 1.
    """
    still_above = check_number("still_above", still_above)

    def line(x, sigma, x0_hat, other):
        still = x / (1 + check_sigma(sigma, x))
        return still + _projected(x0_hat - still, other - still, axes)

    moving = _reguided(main, guide, w, interval, line)

    def D(x, sigma):
        level = check_sigma(sigma, x)
        above = level > still_above
        still = x / (1 + level)
        if above.all():
            return still
        x0_hat = moving(x, sigma)
        return torch.where(above, still, x0_hat) if above.any() else x0_hat

    return D


def frequency_decoupled(
    main: Denoiser,
    guide: Denoiser,
    w_low: Weight,
    w_high: Weight,
    levels: int = 1,
    interval: tuple[float, float] = (0.0, math.inf),
) -> Denoiser:
    """Guidance with a weight for low and one for high frequencies: each band is `guided` by the guide's band.

    For images x (B, C, H, W). low: halved and doubled again, `levels` times, as in a Laplacian pyramid
    (Burt & Adelson 1983); high: the rest. Raises ValueError for an x that is too small or no image. Sadat et
    al. 2025 (arXiv 2506.19713), who take w_low < w_high.
    """
    check_denoisers(main=main, guide=guide)
    check_whole("levels", levels, 1)
    interval = check_weights(interval, w_low=w_low, w_high=w_high)

    def D(x, sigma):
        _check_images(x, levels)
        x0_hat = main(x, sigma)
        main_low = low_pass(x0_hat, levels)

        @functools.cache
        def guide_parts():
            """The guide's two bands, asked for where a weight is not 1."""
            other = guide(x, sigma)
            other_low = low_pass(other, levels)
            return other_low, other - other_low

        low = guided(lambda *_: main_low, lambda *_: guide_parts()[0], w_low, interval)
        high = guided(lambda *_: x0_hat - main_low, lambda *_: guide_parts()[1], w_high, interval)
        return low(x, sigma) + high(x, sigma)

    return D


def low_pass(x: Tensor, levels: int = 1) -> Tensor:
    """x (B, C, H, W) halved and doubled again, `levels` times, each time with a 5 x 5 binomial blur.

    Raises ValueError for an x that is too small or no image.
    """
    _check_images(x, levels)
    if levels == 0:
        return x
    size = x.shape[2:]
    half = torch.nn.functional.interpolate(_binomial(x), scale_factor=0.5, mode="bilinear")
    whole = torch.nn.functional.interpolate(low_pass(half, levels - 1), size=size, mode="bilinear")
    return _binomial(whole)


def _check_images(x, levels):
    """Raise unless x can be halved so often."""
    check_points(x=x)
    least = 3 * 2 ** min(check_whole("levels", levels, 0), 60) // 2  # 3 where it is halved last
    if x.ndim != 4 or min(x.shape[2:]) < least:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected images (B, C, H, W) of at least {least} pixels a side"
        )


def _binomial(x):
    """Each channel blurred by (1, 4, 6, 4, 1) / 16 along both axes, mirrored at the edges."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype, device=x.device) / 16
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 5, 5)
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    return torch.nn.functional.conv2d(padded, kernel, groups=x.shape[1])


# the guide, between two models


def interpolated(pretrained: dict, finetuned: dict, share: float) -> dict:
    """Weights that lie a share of the way from the pre-trained to the fine-tuned model: the weaker guide of
    personalization guidance, asked without a label.

    pretrained, finetuned: state dicts {name: tensor}. A tensor that only one has, or whose shapes differ (a
    label table), is the fine-tune's. share: 0 is the pre-trained model, 1 the fine-tune. Raises ValueError if
    share is not finite, or no tensor is common to both. Park et al. 2025 (arXiv 2508.00319).
    """
    share = check_number("share", share, "(-inf, inf)")
    for name, state in dict(pretrained=pretrained, finetuned=finetuned).items():
        if not isinstance(state, Mapping):
            raise TypeError(f"{name} is {shown(state)}; expected a state dict, as net.state_dict() gives")
        for part, p in state.items():
            if not torch.is_tensor(p):
                raise TypeError(f"{name} holds {shown(p)} in {part}; expected tensors")
    common = [n for n, p in finetuned.items() if n in pretrained and pretrained[n].shape == p.shape]
    if not common:
        raise ValueError(
            "pretrained and finetuned share no tensor of one name and shape; expected one network's"
        )
    found = {name: p.detach().clone() for name, p in finetuned.items()}
    for name in common:
        p = found[name]
        if p.is_floating_point():
            found[name] = torch.lerp(pretrained[name].detach().to(p), p, share)
    return found


# the weight


def cfg_plus_plus(strength: float, sigmas: Tensor) -> Callable[[Tensor], Tensor]:
    """CFG++ as a weight: w(sigma_i) = strength sigma_i / (sigma_i - sigma_{i+1}) on the levels of a schedule.

    `euler` with `guided(main, guide, w)` then steps to x0_hat + sigma_{i+1} eps_guide: the clean image is
    D_guide + strength (D_main - D_guide), and the noise put back is the guide's, (x - D_guide) / sigma_i. So
    the weight grows with the number of steps. Raises ValueError at a level that is not in sigmas (n + 1,).
    Chung et al. 2024 (arXiv 2406.08070), algorithm 2.
    """
    strength = check_number("strength", strength, "(-inf, inf)")
    levels, ends = torch.tensor(pairs(sigmas), dtype=torch.float64, device="cpu").T

    def w(sigma):
        sigma = check_numbers("sigma", sigma, torch.float64) + 0.0
        rounding = max(1e-5, torch.finfo(sigma.dtype).eps)
        off, i = (sigma.double().cpu()[..., None] / levels - 1).abs().min(-1)
        if (off > rounding).any():
            raise ValueError(f"sigma is {sigma[off > rounding][0]:g}; expected a level of the schedule")
        return strength * levels[i] / (levels[i] - ends[i])

    return w


@dataclasses.dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Stepwise:
    """A weight w(sigma) that is constant between levels: weights (n,) for sigmas (n + 1,), which fall.

    At a level, in sigma's own precision, begins the weight of the step down from it. Beyond the levels w
    keeps its first and its last value. Raises ValueError for levels that do not fall, or of another number,
    and for weights that are not finite.
    """

    sigmas: Tensor
    weights: Tensor

    def __post_init__(self):
        for name in ("sigmas", "weights"):
            object.__setattr__(self, name, check_numbers(name, getattr(self, name), torch.float64))
        steps, shape = len(pairs(self.sigmas)), tuple(self.weights.shape)
        if shape != (steps,):
            raise ValueError(f"weights has shape {shape}; expected ({steps},), one for each step of sigmas")
        if not self.weights.isfinite().all():
            raise ValueError(f"weights is {self.weights.tolist()}; expected finite numbers")

    def __call__(self, sigma):
        sigma = check_numbers("sigma", sigma, torch.float64) + 0.0
        inner = self.sigmas[1:-1].to(sigma)
        return self.weights.to(sigma.device)[(sigma[..., None] <= inner).sum(-1)]


@torch.no_grad()
def self_consistent(
    main: Denoiser,
    guide: Denoiser,
    data: Tensor,
    sigmas: Tensor,
    weights: Tensor,
    steps: int = 4,
    sampler: Callable = heun,
    generator: torch.Generator | None = None,
) -> Stepwise:
    """The weights under which guided sampling, started at noised data, arrives at noised data again.

    Between two levels s > s' of sigmas (n + 1,), falling and > 0, points x0 + s eps are sampled down to s' in
    `steps` steps with each of `weights` (m,); the weight is chosen whose samples have the least energy
    distance to x0 + s' eps. data (N, *D): held out, of the label that `main` has; memory grows with m N. Of
    all weights `calibrate`'s are those of one step and squared error instead. Raises ValueError for fewer
    than 2 points, or levels that do not fall or are not positive. Galashov et al. 2025 (arXiv 2510.00815),
    who train w as a network of both levels and the label.
    """
    check_denoisers(main=main, guide=guide)
    check_callable("a sampler, as heun", sampler=sampler)
    check_generator(generator)
    check_points(data=data)
    check_finite(data=data)
    check_whole("steps", steps, 1)
    levels = torch.tensor(pairs(sigmas), device="cpu")
    weights = check_numbers("weights", weights, torch.float64).flatten()
    if levels[-1, 1] <= 0:
        raise ValueError(f"sigmas ends at {levels[-1, 1]:g}; expected levels > 0")
    if not weights.isfinite().all():
        raise ValueError(f"weights is {weights.tolist()}; expected finite numbers")
    if len(data) < 2 or data.ndim < 2 or not len(weights):
        raise ValueError(
            f"data and weights have shapes {tuple(data.shape)}, {tuple(weights.shape)}; "
            "expected at least 2 points (N, *D) and 1 weight"
        )
    D = guided(main, guide, weights.repeat_interleave(len(data)))
    found = []
    for start, end in levels.tolist():
        eps = normal(data, generator)
        x = (data + start * eps).repeat(len(weights), *[1] * (data.ndim - 1))  # (m N, *D)
        between = exponential(steps + 1, end, start)[:-1]
        samples = last(sampler(D, x, between)).reshape(len(weights), len(data), -1)
        truth = (data + end * eps).flatten(1)
        found.append(energy_distance(samples, truth).argmin().cpu())
    ladder = torch.cat([levels[:1, 0], levels[:, 1]]).double()
    return Stepwise(ladder, weights.cpu()[torch.stack(found)])


def _reguided(main, guide, w, interval, changed):
    """`guided`, with changed(x, sigma, D_main, D_guide) for the guide's estimate."""
    check_denoisers(main=main, guide=guide)
    interval = check_weights(interval, w=w)

    def D(x, sigma):
        x0_hat = main(x, sigma)

        def away(x, sigma):
            other = guide(x, sigma)
            check_alike(main=x0_hat, guide=other)
            return changed(x, sigma, x0_hat, other)

        return guided(lambda x, sigma: x0_hat, away, w, interval)(x, sigma)

    return D


def _dot(a, b, axes):
    """Scalar products of samples, shaped to multiply them; in single precision where half would overflow."""
    own = range(1, a.ndim)
    from_the_end = range(1 - a.ndim, 0)
    axes = tuple(own) if axes is None else axes
    if not isinstance(axes, tuple | list) or not axes or not {*axes} <= {*own, *from_the_end}:
        raise ValueError(f"axes is {shown(axes)}; expected axes of one sample of x {tuple(a.shape)}")
    dtype = torch.promote_types(a.dtype, torch.float32)
    return (a.to(dtype) * b.to(dtype)).sum(axes, keepdim=True)


def _projected(a, b, axes):
    """The part of a that is parallel to b, sample by sample; none where b is 0."""
    square = _dot(b, b, axes)
    return (_dot(a, b, axes) / torch.where(square > 0, square, 1.0) * b).to(a.dtype)

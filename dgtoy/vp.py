"""DiT's discrete diffusion process: betas, respacing, ancestral and DDIM steps, the training loss.

A noised image is x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps, t = 0..999. A network of this kind is a
function `model(x (B, C, H, W), t (B,)) -> (B, 2C, H, W)`: the noise eps, then v, which places the variance of
a step between its two bounds. In the units of `samplers`, x_t / sqrt(abar_t) = x0 + sigma eps with sigma =
sqrt(1/abar_t - 1).
"""

import copy
import functools
import inspect
import itertools
import math

import torch

from .checks import (
    append_dims,
    check_alike,
    check_callable,
    check_finite,
    check_integers,
    check_noise,
    check_numbers,
    check_points,
    check_shape,
    check_whole,
    readable,
    shown,
)
from .guidance import check_weights, guided
from .samplers import normal

TIMES = 1000


def linear_betas():
    """The variances added from step to step, (1000,) float64. Ho et al. 2020."""
    return torch.linspace(1e-4, 0.02, TIMES, dtype=torch.float64, device="cpu")


def respaced(n):
    """n of the training times, 0 to 999, evenly spread and rounded: for ancestral sampling.

    Nichol & Dhariwal 2021. Raises ValueError unless 1 <= n <= 1000.
    """
    n = check_whole("n", n)
    if not 1 <= n <= TIMES:
        raise ValueError(f"n is {n}; expected 1 to {TIMES} steps")
    stride = (TIMES - 1) / max(1, n - 1)
    return [round(t) for t in itertools.accumulate([stride] * (n - 1), initial=0.0)]  # rounds as official


def strided(n):
    """n of the training times, 0, k, 2k, ...: for DDIM. Song et al. 2021.

    Raises ValueError if no stride k gives exactly n.
    """
    n = check_whole("n", n)
    for k in range(1, TIMES):
        times = list(range(0, TIMES, k))
        if len(times) == n:
            return times
    raise ValueError(f"n is {n}; no whole stride divides {TIMES} times into that many steps")


def sigma_to_t(sigma):
    """The training time of a noise level, linear in ln sigma, 0 to 999.  (...) -> (...) float32

    Raises ValueError for a level below 0.
    """
    sigma = check_numbers("sigma", sigma, torch.float64)
    if readable(sigma) and not (sigma >= 0).all():
        raise ValueError(f"sigma is {sigma[~(sigma >= 0)][0]:g}; expected noise levels >= 0")
    levels = _sigmas(sigma.device).log()  # ascending
    where = sigma.double().log()
    i = torch.searchsorted(levels, where).clamp(1, TIMES - 1)
    return (i - 1 + (where - levels[i - 1]) / (levels[i] - levels[i - 1])).clamp(0, TIMES - 1).float()


def t_to_sigma(t):
    """The noise level of a training time: the inverse of `sigma_to_t`.  (...) -> (...) float32

    Raises ValueError for nan.
    """
    t = check_numbers("t", t, torch.float64)
    if readable(t) and t.isnan().any():
        raise ValueError(f"t is nan; expected times from 0 to {TIMES - 1}")
    levels = _sigmas(t.device).log()
    t = t.double().clamp(0, TIMES - 1)
    i = t.long().clamp(max=TIMES - 2)
    return (levels[i] + (t - i) * (levels[i + 1] - levels[i])).exp().float()


@functools.cache
def _sigmas(device):
    return Process().to(device).sigmas


class Process:
    """The process at some of its training times, ascending; a step goes from one to the one before.

    times: by default all. n entries each, float64: `times`, `alphas_cumprod` (abar), `alphas_cumprod_prev`,
    `sigmas`, and the coefficients of q(x_{i-1} | x_i, x0) = N(posterior_mean_coef1 x0 + posterior_mean_coef2
    x_i, variance), with `log_variance_min` and `log_variance_max` the bounds of the log variance. Raises
    ValueError for times that do not ascend within 0..999.
    """

    def __init__(self, times=range(TIMES)):
        times = self.times = check_numbers("times", times)
        whole = times.ndim == 1 and not times.is_floating_point() and times.dtype != torch.bool
        if not (whole and len(times)) or times[0] < 0 or times[-1] >= TIMES or not (times.diff() > 0).all():
            raise ValueError(
                f"times is {times.flatten().tolist()[:4]}...; expected ascending whole numbers"
                f" from 0 to {TIMES - 1}"
            )
        abar = (1 - linear_betas()).cumprod(0)[times]
        abar_prev = torch.cat([abar.new_ones(1), abar[:-1]])
        beta = 1 - abar / abar_prev
        self.alphas_cumprod, self.alphas_cumprod_prev = abar, abar_prev
        self.sigmas = (1 / abar - 1).sqrt()
        self.posterior_mean_coef1 = beta * abar_prev.sqrt() / (1 - abar)
        self.posterior_mean_coef2 = (1 - abar_prev) * (1 - beta).sqrt() / (1 - abar)
        variance = beta * (1 - abar_prev) / (1 - abar)
        variance[0] = variance[1] if len(variance) > 1 else beta[0]  # else 0: the last step adds no noise
        self.log_variance_min, self.log_variance_max = variance.log(), beta.log()

    def __len__(self):
        return len(self.times)

    def to(self, device):
        """A copy with its tables where its images are: then no step waits for a transfer."""
        moved = copy.copy(self)
        moved.__dict__ = {name: table.to(device) for name, table in vars(self).items()}
        return moved

    def at(self, x, i):
        """A function that reads a table (n,) at step indices i (B,), shaped to multiply x (B, C, H, W).

        Raises ValueError for indices of another number than x, or that are none of this process.
        """
        i = check_integers("i", i)
        check_shape("i", i, x.shape[:1], x)
        if readable(i) and ((i < 0) | (i >= len(self))).any():
            came = f"i is {i.flatten().tolist()[:4]}..."
            raise ValueError(f"{came}; expected indices from 0 to {len(self) - 1}")
        return lambda table: append_dims(table.to(x.device)[i].to(x.dtype), x)

    def noised(self, x0, i, eps):
        """x_i = sqrt(abar) x0 + sqrt(1 - abar) eps, of images x0 (B, ...) and noise, at indices i (B,).

        Raises ValueError for noise of another shape than the images.
        """
        check_alike(x0=x0, eps=eps)
        at = self.at(x0, i)
        return at(self.alphas_cumprod.sqrt()) * x0 + at((1 - self.alphas_cumprod).sqrt()) * eps

    def x0_hat(self, x, i, eps):
        """The clean image that x_i (B, ...) and its noise eps imply: x_i / sqrt(abar) - sigma eps."""
        check_alike(x=x, eps=eps)
        at = self.at(x, i)
        return at((1 / self.alphas_cumprod).sqrt()) * x - at(self.sigmas) * eps

    def posterior(self, x, i, out):
        """Mean and log variance of the step down from x_i that a network's output (B, 2C, ...) describes."""
        eps, v = out.chunk(2, 1)
        at = self.at(x, i)
        frac = (v + 1) / 2
        log_variance = frac * at(self.log_variance_max) + (1 - frac) * at(self.log_variance_min)
        return self.posterior_mean(self.x0_hat(x, i, eps), x, i), log_variance

    def posterior_mean(self, x0, x, i):
        """The mean of q(x_{i-1} | x_i = x, x0)."""
        at = self.at(x, i)
        return at(self.posterior_mean_coef1) * x0 + at(self.posterior_mean_coef2) * x


def _sampler(steps):
    """Check what comes in at the call, as `samplers` do; keep no graph."""
    bind = inspect.signature(steps).bind
    steps = torch.no_grad()(steps)

    @functools.wraps(steps)
    def sample(*args, **kwargs):
        _check_run(**bind(*args, **kwargs).arguments)
        return steps(*args, **kwargs)

    return sample


def _check_run(model, x_T, process, generator=None):
    """Raise for what cannot be sampled with."""
    check_callable("a function of x and t", model=model)
    if not isinstance(process, Process):
        raise TypeError(f"process is {shown(process)}; expected a Process")
    check_points(x_T=x_T)
    check_finite(x_T=x_T)
    if not torch.is_tensor(generator):
        return check_noise(generator, x_T)
    shape = (len(process), *x_T.shape)
    if generator.shape != shape:
        raise ValueError(f"generator is noise of shape {tuple(generator.shape)}; expected {shape}")


@_sampler
def ancestral(model, x_T, process, generator=None):
    """Down the process with the learned variance; no noise in the last step. Yields x_i (B, C, H, W).

    generator: a torch.Generator, a list of them, one per image, or the noise itself, (steps, B, C, H, W).
    Raises ValueError for noise, or an output of the model, of another shape. Nichol & Dhariwal 2021.
    """
    x = x_T
    for k, i, t in _down(process, x):
        out = model(x, t)
        _check_output(out, x, variance=True)
        mean, log_variance = process.posterior(x, i, out)
        x = mean
        if k + 1 < len(process):
            noise = generator[k] if torch.is_tensor(generator) else normal(x, generator)
            x = mean + (0.5 * log_variance).exp() * noise
        yield x


@_sampler
def ddim(model, x_T, process):
    """Down the process without noise: Euler's method in sigma. Yields x_i (B, C, H, W).

    Song et al. 2021, eq. 12 with eta = 0. Raises ValueError for an output of the model of another shape.
    """
    x = x_T
    for _, i, t in _down(process, x):
        out = model(x, t)
        _check_output(out, x)
        eps = out[:, : x.shape[1]]
        abar_prev = process.at(x, i)(process.alphas_cumprod_prev)
        x = abar_prev.sqrt() * process.x0_hat(x, i, eps) + (1 - abar_prev).sqrt() * eps
        yield x


def _check_output(out, x, variance=False):
    """Raise ValueError for an output that is not the noise of x, or not its noise and variance."""
    b, c, *rest = x.shape
    channels = [2 * c] if variance else [c, 2 * c]
    if getattr(out, "shape", ()) not in [(b, n, *rest) for n in channels]:
        expected = f"(B, {'2C' if variance else 'C or 2C'}, ...) for x {tuple(x.shape)}"
        raise ValueError(f"model gives {shown(out)}; expected {expected}")


def _down(process, x):
    """The steps k = 0, 1, ... with the index i (B,) and the training time t (B,) that each starts from."""
    times = process.times.to(x.device)
    for k in range(len(process)):
        i = torch.full((len(x),), len(process) - 1 - k, device=x.device)
        yield k, i, times[i]


def guided_noise(main, guide, w, channels=None, interval=(0.0, math.inf)):
    """A network of this kind whose noise is guided and whose variance is `main`'s own.

    channels: how many of the first channels are guided; by default all. (The official code guides 3 of 4, by
    accident; its samples need that for exact reproduction.) interval: of noise levels sigma, see
    `guidance.guided`. Raises ValueError for more channels than x has, and for a t that is no training time.
    """
    check_callable("a function of x and t", main=main, guide=guide)
    interval = check_weights(interval, w=w)
    if channels is not None:
        check_whole("channels", channels, 1)

    def model(x, t):
        c = x.shape[1] if channels is None else channels
        if c > x.shape[1]:
            raise ValueError(f"channels is {c}; expected 1 to {x.shape[1]}")
        t = check_numbers("t", t)
        check_shape("t", t, x.shape[:1], x)
        if readable(t) and not ((t >= 0) & (t < TIMES) & (t == t.long())).all():  # -1 is no last one
            came = f"t is {t.flatten().tolist()[:4]}..."
            raise ValueError(f"{came}; expected whole times from 0 to {TIMES - 1}")
        out = main(x, t)
        sigma = _sigmas(x.device).to(x.dtype)[t.long()]
        eps = guided(lambda *_: out[:, :c], lambda *_: guide(x, t)[:, :c], w, interval)(x, sigma)
        return torch.cat([eps, out[:, c:]], 1)

    return model


def training_loss(out, x0, x, i, eps, process):
    """The loss of an output for x = process.noised(x0, i, eps): mse + vb.  -> loss, mse, vb, each (B,)

    mse: of the noise, the mean over an image. vb: the variational bound of this step in bits per dimension, a
    Kullback-Leibler divergence, at i = 0 the likelihood of 8-bit pixels; it trains the variance alone. Nichol
    & Dhariwal 2021, sec. 3.1. Raises ValueError for an output of another shape.
    """
    _check_output(out, x, variance=True)
    check_alike(x=x, x0=x0, eps=eps)
    i = check_integers("i", i).to(x.device)
    noise, v = out.chunk(2, 1)
    mse = (eps - noise).square().flatten(1).mean(1)
    mean, log_variance = process.posterior(x, i, torch.cat([noise.detach(), v], 1))
    log_ratio = process.at(x, i)(process.log_variance_min) - log_variance
    offset = process.posterior_mean(x0, x, i) - mean
    kl = 0.5 * (log_ratio.exp() - log_ratio + offset.square() * (-log_variance).exp() - 1)
    bits = torch.where(append_dims(i == 0, x), _pixel_bits(x0, mean, log_variance), kl / math.log(2))
    vb = bits.flatten(1).mean(1)
    return mse + vb, mse, vb


def _pixel_bits(x0, mean, log_variance):
    """-log2 of what a Gaussian gives to the 1/127.5 wide cell around each value; end cells are open.

    Its distribution function is the tanh approximation of the official code, to 1e-3.
    """
    cdf = lambda z: 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)))
    scale = (-0.5 * log_variance).exp()
    above = torch.where(x0 > 0.999, 1.0, cdf(scale * (x0 - mean + 1 / 255)))
    below = torch.where(x0 < -0.999, 0.0, cdf(scale * (x0 - mean - 1 / 255)))
    return -(above - below).clamp(min=1e-12).log2()

"""Closed forms: what guidance does to Gaussians; what Domain Guidance adds to classifier-free guidance."""

import math

import numpy as np
import torch

from .checks import check_interval, check_level, check_number, check_numbers, shown

LARGEST = 3000  # weight, up to which the quadrature below is exact to 1e-11


def gaussian_guidance(
    target: tuple, source: tuple, w: float, interval: tuple[float, float] = (0.0, math.inf)
) -> tuple:
    """Exact end of the guided probability-flow ODE for a Gaussian source and target, direction by direction.

    target, source: (mean, std), numbers or arrays with one entry per direction. Inside `interval` the score
    is (1 - w) score_source + w score_target, outside it the target's. The end std is
        s_T R(low) / R(high) with R(sigma) = ((s_T^2 + sigma^2) / (s_S^2 + sigma^2))^((w-1)/2),
    over all sigma s_T (s_T / s_S)^(w-1); the mean is the integral of `gaussian_endpoint`.  -> (mean, std)
    Raises ValueError if w is not finite, a std is not positive or the interval is empty.
    """
    w = check_number("w", w, "(-inf, inf)")
    for name, pair in (("target", target), ("source", source)):
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise ValueError(f"{name} is {shown(pair)}; expected (mean, std)")
    return gaussian_endpoint([(1 - w, *source), (w, *target)], interval)


@np.errstate(over="ignore", invalid="ignore")
def gaussian_endpoint(parts: list[tuple], interval: tuple[float, float] = (0.0, math.inf)) -> tuple:
    """Exact end of the probability-flow ODE under an affine combination of Gaussians' scores.

    parts: [(weight, mean, std), ...] with weights summing to 1, mean and std numbers or arrays. From sigma =
    inf to 0,
        dx/dsigma = sigma sum_i weight_i (x - mu_i) / (s_i^2 + sigma^2),
    so with Phi(sigma) = prod_i (s_i^2 + sigma^2)^(weight_i / 2) the samples have
        std  = Phi(0) = prod_i s_i^weight_i,
        mean = int_0^inf Phi(0) / Phi(sigma) sigma sum_i weight_i mu_i / (s_i^2 + sigma^2) dsigma.
    Outside `interval` only the last part acts, with weight 1.  -> (mean, std)
    Raises ValueError if the weights do not sum to 1 or one is larger than 3000, a std is not positive, the
    interval is empty, or the samples' mean or std overflows.
    """
    interval = check_interval(interval)
    weights, means, stds = _checked_parts(parts)  # first axis: the parts
    off = np.zeros_like(weights)
    off[-1] = 1.0
    near, far = 1e-12 * stds.min(), 1e12 * stds.max()  # in between lies all of the integral, to 1e-12
    low, high = np.clip(interval, near, far)

    def grow(lam, start, end):  # log Phi(end) / Phi(start) where the weights are lam, summed over the parts
        return (lam * np.log((stds**2 + end**2) / (stds**2 + start**2)) / 2).sum(-stds.ndim)

    def log_phi(sigma):  # log Phi(sigma) / Phi(0), weights switching at low and high
        inside = grow(weights, low, np.clip(sigma, low, high))
        return grow(off, 0, np.minimum(sigma, low)) + inside + grow(off, high, np.maximum(sigma, high))

    rate = abs(weights).sum() / 2  # of v = ln sigma, over which every scale counts alike, in e^(rate v)
    v, dv = _gauss_legendre(np.log([near, low, high, far]), rate)
    sigma = np.exp(v).reshape(-1, *(1,) * stds.ndim)  # (nodes, 1, ...)
    lam = np.where((low <= sigma) & (sigma <= high), weights, off)
    centre = means[-1]  # moving all means moves the samples: integrate what is left
    pull = (lam * (means - centre) / (stds**2 + sigma**2)).sum(1)  # (nodes, ...)
    scale = sigma[:, 0] ** 2 * np.exp(-log_phi(sigma))
    mean = centre + np.tensordot(dv, scale * pull, 1)
    std = far * np.exp(-log_phi(far))  # x / sigma is standard normal out there
    if not np.isfinite([mean, std]).all():
        raise ValueError(
            f"the samples' mean or std overflows, weights up to {weights.max():g}; expected less"
        )
    return _plain(mean), _plain(std)


def _gauss_legendre(breaks, rate):
    """Nodes and weights of a composite rule between `breaks`, in pieces of length 1 and 30 / rate at most.

    In v = ln sigma the integrands here have no pole nearer than pi / 2 and grow by e^(rate v) at most, so
    each piece is exact to 1e-12.
    """
    pieces = np.ceil(max(1, rate / 30) * np.diff(breaks)).astype(int)
    edges = [np.linspace(a, b, n + 1)[1:] for a, b, n in zip(breaks, breaks[1:], pieces) if n]
    edges = np.concatenate([breaks[:1], *edges])
    node, weight = np.polynomial.legendre.leggauss(16)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    return (middle[:, None] + half[:, None] * node).ravel(), (half[:, None] * weight).ravel()


def tilted(target, source, w, x, sigma=0.0):
    """log of the density that guidance is often said to sample, p_S^(1-w) p_T^w / Z, on a grid.

    target, source: mixtures. x (N, D): the points of a regular grid; Z makes the sum over the grid 1. sigma:
    tilts the blurred densities.  -> (N,)
    Guided sampling does not sample it: Bradley & Nakkiran 2024 (arXiv 2408.09000), claim C2. Raises
    ValueError if w is not finite.
    """
    w = check_number("w", w, "(-inf, inf)")
    for name, mixture in dict(target=target, source=source).items():
        if not hasattr(mixture, "logp"):
            raise TypeError(f"{name} is {shown(mixture)}; expected a mixture")
    return ((1 - w) * source.logp(x, sigma) + w * target.logp(x, sigma)).log_softmax(0)


@torch.inference_mode(False)  # which knows no derivatives
def alignment(mixture, domains, label, domain, x, sigma):
    """The three scores of which Domain Guidance is made, each from its own definition.

    Source and target live in one labelled mixture; `domains` (K,) assigns each component to a domain. With c
    the label and D the domain, Bayes' rule p(x | c, D) / p(x) = p(c | x, D) p(D | x) / p(c, D) gives
        DoG = grad log p(x | c, D) + (w - 1) [grad log p(c | x, D) + grad log p(D | x)]:
    the term of classifier-free guidance inside the domain, plus a term that pulls towards the domain. x (B,
    D), sigma () or (B,). -> conditional, class term, domain term, each (B, D). Zhong et al. 2025, sec. 3.
    Raises ValueError if no component has that label in that domain.
    """
    domains = check_numbers("domains", domains)
    if domains.shape != mixture.weights.shape:
        came, expected = tuple(domains.shape), tuple(mixture.weights.shape)
        raise ValueError(f"domains has shape {came}; expected {expected}, one per component")
    check_level(sigma, x, zero=True)
    in_domain = domains == domain
    wanted = in_domain & (mixture.labels == label)
    if not wanted.any():
        raise ValueError(f"label {label} has no component in domain {domain}")
    conditional = mixture.subset(wanted).score(x, sigma)
    with torch.enable_grad():
        x = x.detach().clone().requires_grad_()
        log_r = mixture.log_responsibilities(x, sigma)  # log p(k | x)
        log_cd, log_d = (log_r[..., keep].logsumexp(-1) for keep in (wanted, in_domain))
        (class_term,) = torch.autograd.grad((log_cd - log_d).sum(), x, retain_graph=True)
        (domain_term,) = torch.autograd.grad(log_d.sum(), x)
    return conditional, class_term, domain_term


def _checked_parts(parts):
    """parts as weights (n, 1), means (n, dirs), stds (n, dirs), or without the last axis for numbers."""
    if not isinstance(parts, tuple | list) or not all(
        isinstance(p, tuple | list) and len(p) == 3 for p in parts
    ):
        raise ValueError(f"parts is {shown(parts)}; expected (weight, mean, std) each")
    weights = np.array([check_number("a weight of parts", weight) for weight, _, _ in parts])
    if not np.isfinite(weights).all() or abs(weights.sum() - 1) > 1e-9:
        raise ValueError(f"the weights of parts sum to {weights.sum():g}; expected 1")
    if abs(weights).max() > LARGEST:
        raise ValueError(f"a weight of parts is {abs(weights).max():g}; expected at most {LARGEST}")
    values = [
        check_numbers(f"a {name} of parts", value, torch.float64).detach().double().cpu().numpy()
        for part in parts
        for name, value in zip(("mean", "std"), part[1:])
    ]
    try:
        values = np.stack(np.broadcast_arrays(*values))
    except ValueError:
        shapes = ", ".join(str(value.shape) for value in values)
        raise ValueError(f"means and stds of parts have shapes {shapes}; expected ones that agree") from None
    means, stds = values[::2], values[1::2]
    if not means.size:
        raise ValueError(
            f"means and stds of parts have shape {means.shape[1:]}; expected 1 direction or more"
        )
    if not np.isfinite(means).all():
        raise ValueError(f"a mean of parts is {means[~np.isfinite(means)][0]}; expected finite numbers")
    if not (np.isfinite(stds) & (stds > 0)).all():
        raise ValueError(f"a std of parts is {stds.min():g}; expected positive, finite numbers")
    if stds.min() < 1e-100 or stds.max() > 1e100:
        raise ValueError(f"stds of parts are {stds.min():g} to {stds.max():g}; expected 1e-100 to 1e100")
    return weights.reshape(-1, *(1,) * (means.ndim - 1)), means, stds


def _plain(value):
    return float(value) if np.ndim(value) == 0 else value

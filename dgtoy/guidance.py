"""Guidance composes denoisers and lives outside every model.

Every method here is an affine combination of denoisers whose weights sum to 1: classifier-free guidance
steers away from the model's own null label, Domain Guidance away from the pre-trained model, autoguidance
away from a weaker model. The guidance plane holds the first two and everything between. Everywhere a denoiser
is D(x (B, *D), sigma () or (B,)) -> x0_hat (B, *D).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .calibration import calibrate  # noqa: F401  (weights from held-out data)
from .checks import (
    append_dims,
    check_alike,
    check_denoisers,
    check_estimate,
    check_interval,
    check_leads,
    check_level,
    check_number,
    check_numbers,
    check_sigma,
    check_whole,
    followed,
    mapped,
    shown,
)
from .samplers import Denoiser

Weight = float | Tensor | Callable[[Tensor], float | Tensor]  # a number, one per sample (B,), or w(sigma)


def guided(
    main: Denoiser, guide: Denoiser, w: Weight, interval: tuple[float, float] = (0.0, math.inf)
) -> Denoiser:
    """D_guide + w (D_main - D_guide) for sigma in `interval` (ends included), D_main outside it.

    main, guide: denoisers. w: a number, one per sample (B,), or a function of sigma; 1 is off, 0 is the
    guide. Where w is 1 for the whole batch the guide is not called, where it is 0 the main model is not.
    Raises TypeError for a denoiser that cannot be called; ValueError if w is not finite or the interval is
    empty, and in a call if the two estimates differ in shape. Ho & Salimans 2022, eq. 6; the interval is
    Kynkäänniemi et al. 2024.
    """
    check_denoisers(main=main, guide=guide)
    interval = check_weights(interval, w=w)

    def D(x, sigma):
        weight = _weight(w, "w", sigma, interval, x)
        if not followed(weight) and (weight == 1).all():
            return main(x, sigma)
        if not followed(weight) and (weight == 0).all():
            return guide(x, sigma)
        start, end = guide(x, sigma), main(x, sigma)
        check_alike(main=end, guide=start)
        return _lerp(start, end, weight)

    return D


def cfg(
    model, y: int | Tensor, null: int, w: Weight, interval: tuple[float, float] = (0.0, math.inf)
) -> Denoiser:
    """Classifier-free guidance: the model's labelled branch, guided by its own label-dropped branch.

    model offers `denoiser(label)` and `null`; y is an int or (B,). Raises TypeError for a model without
    these, ValueError if `null` is another model's, and what `guided` does. Ho & Salimans 2022.
    """
    if not (hasattr(model, "denoiser") and hasattr(model, "null")):
        raise TypeError(f"model is {shown(model)}; expected one with `denoiser(label)` and `null`")
    if check_whole("null", null) != model.null:
        raise ValueError(f"null is {null}; this model's null label is {model.null}")
    return guided(model.denoiser(y), model.denoiser(null), w, interval)


def domain_guidance(
    finetuned: Denoiser, pretrained: Denoiser, w: Weight, interval: tuple[float, float] = (0.0, math.inf)
) -> Denoiser:
    """Domain Guidance: the fine-tuned denoiser, guided by the pre-trained one.

    D_pre + w (D_ft - D_pre). `finetuned` carries its label, `pretrained` its own null label. Raises what
    `guided` does. Zhong et al., ICLR 2025 (arXiv 2504.01521).
    """
    check_denoisers(finetuned=finetuned, pretrained=pretrained)
    return guided(finetuned, pretrained, w, interval)


def autoguidance(
    model: Denoiser, weaker: Denoiser, w: Weight, interval: tuple[float, float] = (0.0, math.inf)
) -> Denoiser:
    """Autoguidance: a denoiser guided by a smaller or less trained version of itself, same label.

    D_weaker + w (D_model - D_weaker). Raises what `guided` does. Karras et al. 2024.
    """
    check_denoisers(model=model, weaker=weaker)
    return guided(model, weaker, w, interval)


def blurred(D: Denoiser, b: float) -> Denoiser:
    """A denoiser's own density blurred by b: the exact denoiser of p * N(0, b^2 I), where D is that of p.

    x + sigma^2 / s^2 (D(x, s) - x) with s^2 = sigma^2 + b^2: as a guide it needs no second model and no null
    label. In a Gaussian direction of std s_T, w ends at std s_T (s_T^2 / (s_T^2 + b^2))^((w - 1) / 2) and
    leaves the mean. Raises ValueError if b is negative or not finite. Relatives: Li et al. 2024 (arXiv
    2412.05827) guide by the same model at another noise level, Sadat et al. 2024 (arXiv 2407.02687) at
    another time.
    """
    check_denoisers(D=D)
    b = check_number("b", b, "[0, inf)")

    def G(x, sigma):
        level = check_sigma(sigma, x)  # () or (B, 1, ...)
        if b > torch.finfo(x.dtype).max:
            raise ValueError(f"b is {b}; expected a width that is finite in {x.dtype}")
        s = torch.hypot(level, torch.full_like(level, b))
        x0_hat = check_estimate("D", D(x, s.reshape(torch.as_tensor(sigma).shape)), x)
        return torch.lerp(x, x0_hat, (level / s) ** 2)

    return G


def reused(D: Denoiser, every: int) -> Denoiser:
    """A cheaper guide: D is called at every `every`-th noise level; in between, its last noise stands in.

    There the value is x - sigma eps with eps = (x' - D(x', sigma')) / sigma' of the last call. A level that
    is not below the one before, or an x of another shape, begins a new run. For samplers with one call per
    step. Raises ValueError if every < 1.
    """
    check_denoisers(D=D)
    check_whole("every", every, 1)
    run, calls, eps = Run(), 0, None

    def guide(x, sigma):
        nonlocal calls, eps
        sigma = check_level(sigma, x).to(x)
        begins = run.begins(x, sigma)
        calls = 0 if begins or eps is None else calls + 1
        if calls % every:
            return x - append_dims(sigma, x) * eps
        x0_hat = check_estimate("D", D(x, sigma), x)
        eps = (x - x0_hat) / append_dims(sigma, x)
        return x0_hat

    return guide


class Run:
    """Tells a denoiser that remembers where a sampler begins anew: at a level that is not below the one
    before, or with an x of another shape."""

    def __init__(self):
        self.level, self.shape = math.inf, None

    def begins(self, x, sigma):
        """Whether this call, at the highest of its levels, is the first of a run."""
        level = max(check_level(sigma, x).flatten().tolist(), default=0.0)
        is_first = level >= self.level or x.shape != self.shape
        self.level, self.shape = level, x.shape
        return is_first


def plane(
    pretrained: Denoiser,
    finetuned_null: Denoiser,
    finetuned: Denoiser,
    a: Weight,
    b: Weight,
    interval: tuple[float, float] = (0.0, math.inf),
) -> Denoiser:
    """D_pre + a (D_null - D_pre) + b (D_c - D_null): the domain and the class direction, weighted apart.

    (1, 1) is no guidance, (1, w) CFG, (w, w) Domain Guidance. a and b are numbers, one per sample (B,), or
    functions of sigma; outside `interval` both are 1. Only the networks with a weight are called: one at (1,
    1), two on the CFG and DoG lines, three elsewhere. Raises ValueError if a weight is not finite or the
    interval is empty.
    """
    check_denoisers(pretrained=pretrained, finetuned_null=finetuned_null, finetuned=finetuned)
    interval = check_weights(interval, a=a, b=b)

    def D(x, sigma):
        w_domain = _weight(a, "a", sigma, interval, x)
        w_class = _weight(b, "b", sigma, interval, x)
        weights = dict(pretrained=1 - w_domain, finetuned_null=w_domain - w_class, finetuned=w_class)
        nets = dict(pretrained=pretrained, finetuned_null=finetuned_null, finetuned=finetuned)
        used = [name for name, weight in weights.items() if followed(weight) or weight.any()]
        parts = {name: nets[name](x, sigma) for name in used or ["finetuned"]}  # of an empty batch none is
        check_alike(**parts)
        return sum(_times(weights[name], x0_hat, x) for name, x0_hat in parts.items())

    return D


def _weight(w, name, sigma, interval, x):
    """The weight at sigma in float64, shaped to multiply x: (), or (B, 1, ...); 1 outside the interval."""
    sigma = check_level(sigma, x, zero=True)
    weight = check_numbers(name, w(sigma) if callable(w) else w, torch.float64).double()
    finite = weight.to(x.dtype).isfinite()
    if not mapped(finite) and not finite.all():
        levels, finite = torch.broadcast_tensors(sigma, finite)
        raise ValueError(
            f"{name} is not finite at sigma = {levels[~finite][0]:g} in {x.dtype}; expected a finite number"
        )
    check_leads(name, weight, x)
    weight = append_dims(weight, x)
    low, high = interval
    if low > 0 or high < math.inf:
        inside = append_dims((sigma >= low) & (sigma <= high), x)
        weight = torch.where(inside, weight.to(inside.device), 1.0)
    return weight


def _lerp(start, end, weight):
    """start + weight (end - start), exactly start at 0 and end at 1; of two precisions the finer one."""
    dtype = torch.promote_types(start.dtype, end.dtype)
    start, end = start.to(dtype), end.to(dtype)
    factor = _factor(weight, end)
    between = torch.lerp(start, end, factor)
    if weight.ndim and not followed(weight):  # as in `_times`
        between = torch.where(factor == 1, end, torch.where(factor == 0, start, between))
    return between


def _times(weight, x0_hat, x):
    """weight x0_hat, and 0 where the weight is 0: 0 times a number that is not finite is none."""
    factor = _factor(weight, x)
    product = factor * x0_hat
    return torch.where(factor == 0, 0.0, product) if weight.ndim and not followed(weight) else product


def _factor(weight, x):
    """A weight as what multiplies x: a number, so that no device waits for it, or a tensor beside x."""
    return weight.to(x) if weight.ndim or followed(weight) else weight.item()


def check_weights(interval, **weights):
    """The interval as two numbers. Raises ValueError for one that holds nothing, or a weight not finite."""
    for name, w in weights.items():
        if callable(w):
            continue
        finite = check_numbers(name, w, torch.float64).isfinite()
        if not mapped(finite) and not finite.all():
            raise ValueError(f"{name} is {w}; expected a finite number, or a function of sigma")
    return check_interval(interval)

"""Guidance composes denoisers and lives outside every model.

Every method here is an affine combination of denoisers whose weights sum to 1:
classifier-free guidance steers away from the model's own null label, Domain Guidance away from the pre-trained model,
autoguidance away from a weaker model. The guidance plane holds the first two and everything between.
"""

import math

import torch

from .calibration import Calibration, calibrate  # noqa: F401  (weights from held-out data)


def guided(main, guide, w, interval=(0.0, math.inf)):
    """D_guide + w (D_main - D_guide) for sigma in `interval` (ends included), D_main outside it.

    main, guide: denoisers D(x (B, *D), sigma () or (B,)) -> (B, *D). w: a number or a function of sigma; 1 is off, 0 is
    the guide. Where w is 1 for the whole batch the guide is not called, where it is 0 the main model is not.
    Raises ValueError if w is not finite or the interval is empty. Ho & Salimans 2022, eq. 6; the interval is
    Kynkäänniemi et al. 2024.
    """
    _check_weight(w, "w")
    lo, hi = _check_interval(interval)

    def D(x, sigma):
        weight = _at(w, sigma, lo, hi, "w")
        return _affine(x, sigma, [(1 - weight, guide), (weight, main)])

    return D


def cfg(model, y, null, w, interval=(0.0, math.inf)):
    """Classifier-free guidance: the model's labelled branch, guided by its own label-dropped branch.

    model offers `denoiser(label)` and `null`; y is an int or (B,). Raises ValueError if `null` is another model's.
    Ho & Salimans 2022.
    """
    if null != model.null:
        raise ValueError(f"null is {null}; this model's null label is {model.null}")
    return guided(model.denoiser(y), model.denoiser(null), w, interval)


def domain_guidance(finetuned, pretrained, w, interval=(0.0, math.inf)):
    """Domain Guidance: the fine-tuned denoiser, guided by the pre-trained one.

    D_pre + w (D_ft - D_pre). `finetuned` carries its label, `pretrained` its own null label.
    Zhong et al., ICLR 2025 (arXiv 2504.01521).
    """
    return guided(finetuned, pretrained, w, interval)


def autoguidance(model, weaker, w, interval=(0.0, math.inf)):
    """Autoguidance: a denoiser guided by a smaller or less trained version of itself, same label. Karras et al. 2024."""
    return guided(model, weaker, w, interval)


def reused(D, every):
    """A cheaper guide: D is called at every `every`-th noise level on the way down, and in between its last noise estimate stands in.

    There the value is x - sigma eps with eps = (x' - D(x', sigma')) / sigma' of the last call. A level that is not below the one before, or an x of
    another shape, begins a new run. For samplers with one call a step. Raises ValueError if every < 1.
    """
    if every < 1:
        raise ValueError(f"every is {every}; expected 1 or more")
    last = dict(calls=0, sigma=math.inf, eps=None)

    def guide(x, sigma):
        level = float(torch.as_tensor(sigma).max())
        if last["eps"] is None or level >= last["sigma"] or last["eps"].shape != x.shape:
            last["calls"] = 0
        called, s = last["calls"] % every == 0, _lead(torch.as_tensor(sigma, dtype=x.dtype), x)
        value = D(x, sigma) if called else x - s * last["eps"]
        if called:
            last["eps"] = (x - value) / s
        last["calls"], last["sigma"] = last["calls"] + 1, level
        return value

    return guide


def plane(pretrained, finetuned_null, finetuned, a, b, interval=(0.0, math.inf)):
    """D_pre + a (D_null - D_pre) + b (D_c - D_null): the domain direction and the class direction, weighted apart.

    (1, 1) is no guidance, (1, w) CFG, (w, w) Domain Guidance. a and b are numbers or functions of sigma; outside
    `interval` both are 1. Only the networks with a weight are called: one at (1, 1), two on the CFG and DoG lines,
    three elsewhere. Raises ValueError if a weight is not finite or the interval is empty.
    """
    _check_weight(a, "a"), _check_weight(b, "b")
    lo, hi = _check_interval(interval)

    def D(x, sigma):
        at, bt = _at(a, sigma, lo, hi, "a"), _at(b, sigma, lo, hi, "b")
        return _affine(x, sigma, [(1 - at, pretrained), (at - bt, finetuned_null), (bt, finetuned)])

    return D


def _affine(x, sigma, parts):
    """sum_i weight_i D_i(x, sigma), weights () or (B,) summing to 1, with no call to a denoiser whose weight is 0 throughout.

    Where one weight is 1 and the others 0, that denoiser's value is returned bit for bit.
    Written around the first denoiser in use, D_0 + sum_i weight_i (D_i - D_0): differences of nearby estimates lose less.
    """
    parts = [(weight, D) for weight, D in parts if bool((weight != 0).any())]
    out = [(weight, D(x, sigma)) for weight, D in parts]
    if len(out) == 1:
        return out[0][1]
    base = out[0][1]
    total = base
    for weight, value in out[1:]:
        total = total + _lead(weight.to(x.dtype), x) * (value - base)
    for i, (_, value) in enumerate(out):  # per-sample weights: some rows may need one denoiser alone
        alone = math.prod(weight == 0 for j, (weight, _) in enumerate(out) if j != i)
        total = torch.where(_lead(alone.bool(), x), value, total) if alone.ndim else total
    return total


def _lead(weight, x):
    """A weight () or (B,) shaped to broadcast against x (B, *D), and then on its device; one number multiplies from where it is."""
    return (
        weight.to(x.device).reshape(weight.shape + (1,) * (x.ndim - weight.ndim)) if weight.ndim else weight
    )


def _at(w, sigma, lo, hi, name):
    """The weight at sigma as a float64 tensor, () or (B,); 1 outside [lo, hi]."""
    sigma = torch.as_tensor(sigma)
    value = torch.as_tensor(w(sigma) if callable(w) else w, dtype=torch.float64)
    if callable(w) and not bool(value.isfinite().all()):
        levels, finite = torch.broadcast_tensors(sigma, value.isfinite())
        raise ValueError(f"{name} is not finite at sigma = {levels[~finite][0]:g}; expected a finite number")
    if lo <= 0 and hi == math.inf:
        return value
    inside = (sigma >= lo) & (sigma <= hi)
    return torch.where(inside, value.to(inside.device), 1.0)


def _check_weight(w, name):
    if not callable(w) and not math.isfinite(w):
        raise ValueError(f"{name} is {w}; expected a finite number, or a function of sigma")


def _check_interval(interval):
    lo, hi = interval
    if not 0 <= lo < hi:
        raise ValueError(f"interval is ({lo}, {hi}); expected 0 <= lo < hi")
    return lo, hi

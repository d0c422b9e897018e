"""Networks from elsewhere as denoisers D(x, sigma)."""

import torch

from ..checks import append_dims, check_callable, check_estimate, check_level
from . import levels
from .calls import each_tensor
from .checks import LAYOUTS, Layout, kind_of

PLACES = ("txt_ids", "img_ids")  # inputs of Flux that have no row for each picture


def denoiser(net, scheduler, **condition):
    """A pipeline's network as D(x, sigma) -> x0_hat, x = x0 + sigma eps: for `calibrate`, `plane` and every
    sampler here.

    scheduler, or a pipeline that has one: tells the noise levels and what the network predicts: epsilon or
    v_prediction of a variance-preserving process (`alphas_cumprod`), or the velocity of flow matching, x_t =
    (1 - t) x0 + t eps, sigma = t / (1 - t). condition: what the network is given besides latent and timestep,
    of one row or as many as x has, nested dicts as well. Raises ValueError for another prediction type, and
    in a call of a network that is known here (`LAYOUTS`) for another number of rows.
    """
    scheduler = levels.scheduler_of(scheduler)
    kind, known = levels.predicts(scheduler), kind_of(net) in LAYOUTS
    layout = LAYOUTS[kind_of(net)] if known else Layout("second")

    def answer(x, time):
        time = layout.time(time).to(x.device, net.dtype if kind == "flow" else torch.float32)
        if known:
            _check_rows(condition, x)
        expand = lambda v: v.expand(len(x), *v.shape[1:]) if v.ndim and len(v) == 1 else v
        expanded = each_tensor(expand, condition)
        return layout.sign * net(x.to(net.dtype), timestep=time, **expanded, return_dict=False)[0]

    return as_denoiser(answer, kind, lambda sigma: levels.sigma_to_t(sigma, scheduler))


def _check_rows(condition, x):
    """Raise ValueError, naming it, for a tensor that has neither one row nor as many as x."""
    for name, value in condition.items():
        if isinstance(value, dict):
            _check_rows(value, x)
        elif torch.is_tensor(value) and value.ndim and name not in PLACES and len(value) not in (1, len(x)):
            raise ValueError(
                f"{name} has shape {tuple(value.shape)}; expected 1 row or as many as x {tuple(x.shape)}"
            )


def as_denoiser(net, predicts, sigma_to_t=None, **condition):
    """Any network net(x, t, **condition) as D(x, sigma) -> x0_hat, without a gradient.

    predicts: "x0", or "epsilon", "v_prediction" or "flow". sigma_to_t: gives the network's time (B,) of
    sigma (B,); without it t is sigma. "v_prediction" sees x / sqrt(1 + sigma^2), as in a variance-preserving
    process, and so does "epsilon" with sigma_to_t; without it "epsilon" sees x itself, as "x0" does. A flow,
    u = eps - x0, sees x / (1 + sigma), and by default t = sigma / (1 + sigma). Of the network's channels the
    first, as many as x has, enter.
    Raises ValueError for another prediction, and in a call for an output of another shape.

        k-diffusion, EDM2       as_denoiser(net, "x0", class_labels=y)
        smalldiffusion          as_denoiser(net, "epsilon")
        the official DiT        as_denoiser(net, "epsilon", vp.sigma_to_t, y=y)
        the official SiT        as_denoiser(lambda x, t, y: -net(x, 1 - t, y), "flow", y=y)
    """
    if predicts not in ("x0", "epsilon", "v_prediction", "flow"):
        raise ValueError(f"predicts is {predicts}; expected x0, epsilon, v_prediction or flow")
    check_callable("a network, net(x, t)", net=net)
    preserves = predicts == "v_prediction" or (predicts == "epsilon" and sigma_to_t is not None)

    @torch.no_grad()
    def D(x, sigma):
        sigma = check_level(sigma, x).cpu().double().expand(len(x))  # (B,)
        level = append_dims(sigma, x).to(x)  # (B, 1, ...)
        scale = torch.ones_like(level)
        if predicts == "flow":
            scale = 1 + level
        elif preserves:
            scale = (1 + level**2).sqrt()
        time = sigma / (1 + sigma) if predicts == "flow" else sigma
        if sigma_to_t is not None:
            time = sigma_to_t(sigma)
        time = time.to(x.device, torch.promote_types(x.dtype, torch.float32))
        out = net((x / scale).to(_dtype(net, x)), time, **condition)
        out = check_estimate("net", out[:, : x.shape[1]] if torch.is_tensor(out) else out, x).to(x.dtype)
        if predicts == "x0":
            return out
        if predicts == "epsilon":
            return x - level * out
        if predicts == "v_prediction":  # v = (eps - sigma x0) / sqrt(1 + sigma^2)
            return x / scale**2 - level / scale * out
        return (x - level * out) / scale  # u = eps - x0, x0 = x_t - t u

    return D


def _dtype(net, x):
    """What a network computes in: its weights' dtype, or x's where it has none."""
    return next((p.dtype for p in net.parameters()), x.dtype) if isinstance(net, torch.nn.Module) else x.dtype

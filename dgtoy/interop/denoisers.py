"""A diffusers network as a denoiser D(x, sigma)."""

import numpy as np
import torch

from .pipelines import each_tensor


def denoiser(net, scheduler, **condition):
    """A pipeline's network as D(x, sigma) -> x0_hat, x = x0 + sigma eps: for `calibrate`, `plane` and every
    sampler here.

    scheduler: tells the noise levels and what the network predicts: epsilon or v_prediction of a
    variance-preserving process (`alphas_cumprod`), or the velocity of flow matching, x_t = (1 - t) x0 + t
    eps, sigma = t / (1 - t). condition: what the network is given besides latent and timestep, of one row or
    as many as x has, nested dicts as well. Raises ValueError for another prediction type.
    """
    flow = not hasattr(scheduler, "alphas_cumprod")
    kind = "flow" if flow else scheduler.config.prediction_type
    if kind not in ("flow", "epsilon", "v_prediction"):
        raise ValueError(f"scheduler predicts {kind}; expected epsilon, v_prediction or a flow")

    @torch.no_grad()
    def D(x, sigma):
        sigma = torch.as_tensor(sigma).cpu().double().expand(len(x))  # (B,)
        scale = 1 + sigma if flow else (1 + sigma**2).sqrt()  # x_t = x / scale
        time = scheduler.config.num_train_timesteps * sigma / scale if flow else _sigma_to_t(sigma, scheduler)
        out = net(
            (x / _like(scale, x)).to(net.dtype),
            timestep=time.to(x.device, net.dtype if flow else torch.float32),
            **each_tensor(lambda v: v.expand(len(x), *v.shape[1:]), condition),
            return_dict=False,
        )[0]
        out = out[:, : x.shape[1]].to(x.dtype)
        if kind == "epsilon":
            return x - _like(sigma, x) * out
        if kind == "v_prediction":  # v = (eps - sigma x0) / sqrt(1 + sigma^2)
            return x / _like(scale, x) ** 2 - _like(sigma / scale, x) * out
        return (x - _like(sigma, x) * out) / _like(scale, x)  # v = eps - x0, x0 = x_t - t v

    return D


def _like(v, x):
    """v (B,) in x's dtype and on its device, shaped to multiply x (B, *D)."""
    return v.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))


def _sigma_to_t(sigma, scheduler):
    """The timestep of a noise level, between two by interpolation of ln sigma.  (B,) -> (B,) float64"""
    log_sigmas = np.log((1 / scheduler.alphas_cumprod.double() - 1).sqrt().numpy())
    return torch.from_numpy(np.interp(sigma.log().numpy(), log_sigmas, np.arange(len(log_sigmas))))

"""Fine-tuned models from elsewhere: LoRA, where the guide is the same network with its adapter off, and
diffusers pipelines.
"""

import contextlib
import copy
import warnings

import numpy as np
import torch
from torch import nn

from ..dit import LabelEmbedder, Preconditioned
from ..dit.fast import fused
from ..graphs import Captured
from . import lora, pipelines
from .pipelines import DomainGuidedModel as DomainGuidedModel
from .pipelines import guide_pipeline as guide_pipeline

ADAPTED = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12]|adaLN_modulation\.1)"


class TwoTables(nn.Module):
    """The label tables of a fine-tune and of its ancestor; which one speaks follows the adapter."""

    def __init__(self, pretrained, finetuned):
        super().__init__()
        self.pretrained, self.finetuned, self.off = pretrained, finetuned, False

    def forward(self, y):
        return (self.pretrained if self.off else self.finetuned)(y)


class AdapterOff(nn.Module):
    """A LoRA fine-tune's network as its own ancestor: the same weights in memory, adapter off, the
    pre-trained labels and null.
    """

    def __init__(self, tuned):
        super().__init__()
        self.tuned = tuned
        self.null = len(tuned.y_embedder.pretrained.embedding_table.weight) - 1
        self.shape, self.config = tuned.shape, {**tuned.config, "num_classes": self.null}

    pos_embed = property(lambda self: self.tuned.pos_embed)
    blocks = property(lambda self: self.tuned.blocks)

    def forward(self, x, t, y):
        with adapter_off(self.tuned):
            return self.tuned(x, t, y)


@fused.register
def _fused_guide(net: AdapterOff, fp8=False):
    return AdapterOff(fused(net.tuned, fp8))


def add_lora(net, num_classes, rank=16, seed=0):
    """A copy of an `EDM` or `VP` that trains a low-rank adapter W + B A in every block and a new label table;
    all else is frozen.

    rank: of B A (Hu et al. 2022). seed: of adapter and table.  -> the same adapter; `lora_guide` of it is the
    pre-trained model Raises ImportError naming the extra without peft, ValueError for a rank below 1 or a
    network that has an adapter.
    """
    try:
        with warnings.catch_warnings():  # tqdm.auto warns in a notebook that has no widgets
            warnings.simplefilter("ignore")
            from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise ImportError("LoRA needs peft; install the extra: pip install -e '.[dit]'") from None
    if rank < 1:
        raise ValueError(f"rank is {rank}; expected 1 or more")
    if isinstance(net.net.y_embedder, TwoTables):
        raise ValueError("net carries an adapter already; expected a network without one")
    dit = copy.deepcopy(net.net).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=ADAPTED), dit)
        table = LabelEmbedder(num_classes, dit.config["hidden_size"])
    nn.init.normal_(table.embedding_table.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    dit.y_embedder = TwoTables(dit.y_embedder, table.to(net.device))
    dit.null, dit.config = num_classes, {**dit.config, "num_classes": num_classes}
    new = net.with_net(dit.to(net.device))
    new.seeds = [seed]
    return new


def lora_guide(net, adapter=None):
    """The guide of a LoRA fine-tune: the same network with the adapter off, no second copy.  -> an adapter,
    with `denoiser` and `null`

    net: what `add_lora` returned, or a diffusers pipeline, which is then guided in place
    (`pipelines.guide_by_base`, where `adapter` names one of several). Raises ValueError if the network
    carries no adapter.
    """
    if not isinstance(net, Preconditioned):
        return pipelines.guide_by_base(net, adapter)
    if not isinstance(net.net.y_embedder, TwoTables):
        raise ValueError("net carries no adapter; expected what add_lora returned, or its average")
    guide = net.with_net(AdapterOff(net.net))
    guide.graphs = (
        None if net.graphs is None else Captured(guide.__call__)
    )  # its blocks are compiled with the network's
    return guide


@contextlib.contextmanager
def adapter_off(dit):
    """Within the block the network computes what it computed before the adapter was added."""
    try:
        dit.y_embedder.off = True
        with lora.adapter_off(dit):
            yield
    finally:
        dit.y_embedder.off = False


def denoiser(net, scheduler, **condition):
    """A pipeline's network as a denoiser D(x, sigma), x = x0 + sigma noise: for `calibrate`, `plane` and
    every sampler here.

    scheduler: tells the noise levels and what the network predicts: epsilon or v_prediction of a
    variance-preserving process (`alphas_cumprod`), or the velocity of flow matching, x_t = (1 - t) x0 + t
    noise, sigma = t / (1 - t). condition: what the network is given besides latent and timestep, of one row
    or as many as x has. Raises ValueError for another prediction type.
    """
    flow = not hasattr(scheduler, "alphas_cumprod")
    kind = "flow" if flow else scheduler.config.prediction_type
    if kind not in ("flow", "epsilon", "v_prediction"):
        raise ValueError(f"scheduler predicts {kind}; expected epsilon, v_prediction or a flow")

    @torch.no_grad()
    def D(x, sigma):
        sigma = torch.as_tensor(sigma, dtype=torch.float64).expand(len(x))
        scale = (1 + sigma) if flow else (1 + sigma**2).sqrt()  # x_t = x / scale
        time = scheduler.config.num_train_timesteps * sigma / scale if flow else _time_of(sigma, scheduler)
        lead = lambda v: v.to(x.device, x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        given = {k: v.expand(len(x), *v.shape[1:]) if torch.is_tensor(v) else v for k, v in condition.items()}
        out = net(
            (x / lead(scale)).to(net.dtype),
            timestep=time.to(x.device, net.dtype if flow else torch.float32),
            **given,
            return_dict=False,
        )[0]
        out = out[:, : x.shape[1]].to(x.dtype)
        if kind == "epsilon":
            return x - lead(sigma) * out
        if kind == "v_prediction":  # v = (noise - sigma x0) / sqrt(1 + sigma^2)
            return x / lead(scale) ** 2 - lead(sigma / scale) * out
        return (x - lead(sigma) * out) / lead(scale)  # v = noise - x0, x0 = x_t - t v

    return D


def _time_of(sigma, scheduler):
    """The timestep of a noise level, between two by interpolation of ln sigma."""
    levels = np.log((1 / scheduler.alphas_cumprod.double() - 1).sqrt().numpy())
    return torch.from_numpy(np.interp(sigma.log().numpy(), levels, np.arange(len(levels))))

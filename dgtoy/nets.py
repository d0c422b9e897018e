"""Learned denoisers: an EDM-preconditioned MLP, and an ensemble of seeds trained as one batched network."""

import copy
import math
from collections.abc import Iterable

import torch
from torch import nn

from .checks import (
    check_integers,
    check_number,
    check_points,
    check_seed,
    check_shape,
    check_sigma,
    check_whole,
    readable,
    shown,
)
from .gmm import check_label

WAVES = 8  # of ln sigma, 0.25 to 2 radians a unit


def preconditioned(body, x, sigma, label, null, sigma_data):
    """D(x, sigma | label) = c_skip x + c_out F(c_in x, ln sigma, label). Karras et al. 2022, table 1.

    body: F, from features (..., dim + 16 + null + 1) to (..., dim): the scaled x, waves of ln sigma, the
    label one-hot. x (*B, dim), sigma () or (*B,), label () or (*B,) -> x0_hat (*B, dim)
    Raises ValueError for a label on the CPU that is none.
    """
    sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(x.shape[:-1])[..., None]  # (*B, 1)
    label = check_integers("label", label)
    if readable(label):
        check_label(label, null)
    label = label.to(x.device).expand(x.shape[:-1])  # (*B,)
    scale = (sigma**2 + sigma_data**2).sqrt()
    angle = sigma.log() * torch.linspace(0.25, 2.0, WAVES, dtype=x.dtype, device=x.device)  # (*B, 8)
    one_hot = (label[..., None] == torch.arange(null + 1, device=x.device)).to(x.dtype)  # (*B, null + 1)
    features = torch.cat([x / scale, angle.cos(), angle.sin(), one_hot], -1)
    return (sigma_data / scale) ** 2 * x + sigma * sigma_data / scale * body(features)


def drawn_(weight, init, generator, **how):
    """Fill a weight by one of torch.nn.init with a CPU's random numbers: the same ones on every device."""
    if not weight.is_meta:
        drawn = torch.empty_strided(weight.shape, weight.stride(), dtype=weight.dtype, device="cpu")
        weight.data.copy_(init(drawn, generator=generator, **how))


class MLP(nn.Module):
    """One denoiser: `preconditioned` around a plain MLP with SiLU.

    dim: of x. num_classes: labels are 0..num_classes-1, and `null` = num_classes is the model's own null
    label. depth: hidden layers. sigma_data: the std of data that the preconditioning assumes. seed: of the
    initial weights. Raises ValueError for sizes or a sigma_data that cannot be.
    """

    @torch.random.fork_rng(devices=[])  # torch's layers draw weights of their own, which are overwritten
    def __init__(self, dim=2, num_classes=0, width=128, depth=3, sigma_data=2.0, seed=0):
        super().__init__()
        least = dict(dim=1, num_classes=0, width=1, depth=0)
        given = dict(dim=dim, num_classes=num_classes, width=width, depth=depth)
        dim, num_classes, width, depth = (check_whole(k, given[k], least[k]) for k in given)
        seed = check_seed("seed", seed)
        check_number("sigma_data", sigma_data, "(0, inf)")
        self.config = dict(
            dim=dim, num_classes=num_classes, width=width, depth=depth, sigma_data=sigma_data, seed=seed
        )
        self.null, self.sigma_data = num_classes, sigma_data
        sizes = [dim + 2 * WAVES + num_classes + 1] + depth * [width] + [dim]
        layers = [layer for i, o in zip(sizes, sizes[1:]) for layer in (nn.Linear(i, o), nn.SiLU())]
        self.body = nn.Sequential(*layers[:-1])
        generator = torch.Generator().manual_seed(seed)
        for layer in self.body[::2]:
            bound = 1 / math.sqrt(layer.in_features)
            drawn_(layer.weight, nn.init.uniform_, generator, a=-bound, b=bound)
            drawn_(layer.bias, nn.init.uniform_, generator, a=-bound, b=bound)
        table = self.body[0].weight.data[:, -num_classes - 1 :]  # the columns that the label selects
        drawn_(table, nn.init.normal_, generator, std=0.02)  # as small as DiT's table
        nn.init.zeros_(self.body[-1].weight)
        nn.init.zeros_(self.body[-1].bias)

    def forward(self, x, sigma, label):
        """x (B, dim), sigma () or (B,), label () or (B,) -> x0_hat (B, dim)"""
        return preconditioned(self.body, x, sigma, label, self.null, self.sigma_data)

    def denoiser(self, label):
        """D(x, sigma) for a label, an int or (B,). Raises ValueError for a label that this model lacks."""
        return _denoiser(self, label)

    def with_classes(self, num_classes, seed=0):
        """The same network with a fresh label table for new classes; null is the last row of the table."""
        new = type(self)(**self.config | dict(num_classes=num_classes, seed=seed))
        state = self.state_dict()
        new.to(state["body.0.weight"])
        table = new.body[0].weight[:, -num_classes - 1 :]
        state["body.0.weight"] = torch.cat([state["body.0.weight"][:, : -self.null - 1], table], 1)
        new.load_state_dict(state)
        return new


class Ensemble:
    """S networks of one shape as one batched network: x (S, B, dim) in, x0_hat (S, B, dim) out.

    params {name: (S, ...)} stacks the members' parameters, weights transposed to (S, in, out). Members never
    mix: member k trained here equals the network trained alone with seed k.
    """

    def __init__(self, members):
        if not isinstance(members, Iterable):
            raise TypeError(f"members is {shown(members)}; expected networks, as in Ensemble([net])")
        members = list(members)
        if not members:
            raise ValueError("members is empty; an ensemble needs at least one network")
        first = members[0]
        for k, member in enumerate(members):
            if not isinstance(member, MLP):
                raise TypeError(f"members[{k}] is {shown(member)}; expected an MLP")
            differing = [n for n, v in member.config.items() if n != "seed" and v != first.config[n]]
            if differing:
                came, expected = (net.config[differing[0]] for net in (member, first))
                raise ValueError(
                    f"members[{k}] has {differing[0]} {came}; expected {expected}, as members[0]"
                )
        self.model, self.config = type(first), dict(first.config)
        self.shape = (first.config["dim"],)
        self.null, self.sigma_data = first.null, first.sigma_data
        self.seeds = [m.config["seed"] for m in members]
        states = [m.state_dict() for m in members]
        stacked = {name: torch.stack([s[name] for s in states]) for name in states[0]}
        self.params = {
            k: (v.mT.contiguous() if v.ndim == 3 else v).requires_grad_() for k, v in stacked.items()
        }

    @classmethod
    def of(cls, seeds, **config):
        """One fresh MLP per seed; config: of `MLP`. Raises TypeError for seeds that are no sequence."""
        if not isinstance(seeds, Iterable):
            raise TypeError(f"seeds is {shown(seeds)}; expected one per member, as in [0, 1]")
        return cls([MLP(seed=s, **config) for s in seeds])

    def __len__(self):
        return len(self.seeds)

    def __call__(self, x, sigma, label):
        """x (S, B, dim), sigma () or (S, B), label () or (S, B) -> x0_hat (S, B, dim)"""
        return preconditioned(self._body, x, sigma, label, self.null, self.sigma_data)

    def _body(self, h):
        parameters = list(self.params.values())
        *hidden, (weight, bias) = zip(parameters[::2], parameters[1::2])
        for w, b in hidden:
            h = nn.functional.silu(torch.baddbmm(b[:, None], h, w))  # (S, B, width)
        return torch.baddbmm(bias[:, None], h, weight)  # (S, B, dim)

    def denoiser(self, label):
        """D(x (S, B, dim), sigma () or (S, B)) for a label: an int, or (S, B). Raises as an `MLP`'s."""
        return _denoiser(self, label)

    def member(self, k):
        """Network k on its own, a copy. Raises ValueError if there is none."""
        if not -len(self) <= check_whole("k", k) < len(self):
            raise ValueError(f"k is {k}; expected a number of {len(self)} members, from 0")
        net = self.model(**self.config | dict(seed=self.seeds[k])).to(self.device)
        net.load_state_dict({name: p[k].mT if p.ndim == 3 else p[k] for name, p in self.params.items()})
        return net

    def with_classes(self, num_classes, seeds=None):
        """Every member with a fresh label table; `seeds`, by default the members', draw it and later data.

        Raises ValueError for another number of seeds than members.
        """
        seeds = self.seeds if seeds is None else seeds
        if not isinstance(seeds, Iterable) or len(seeds := list(seeds)) != len(self):
            raise ValueError(f"seeds is {seeds}; expected {len(self)}, one per member")
        return Ensemble([self.member(k).with_classes(num_classes, s) for k, s in enumerate(seeds)])

    def clone(self):
        """A copy that shares nothing."""
        return copy.deepcopy(self)

    def to(self, device):
        """Move the parameters to another device, in place, as torch's modules do.  -> self"""
        self.params = {k: v.detach().to(device).requires_grad_() for k, v in self.params.items()}
        return self

    @property
    def device(self):
        return next(iter(self.params.values())).device


def _denoiser(net, label):
    label = check_label(label, net.null)
    lead = (len(net),) if isinstance(net, Ensemble) else ()
    dim = net.config["dim"]

    def D(x, sigma):
        check_points(x=x)
        if x.shape[-1:] != (dim,) or x.shape[: len(lead)] != lead:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected {(*lead, 'B', dim)}")
        check_shape("label", label, x.shape[:-1], x)
        weight = net.params["body.0.weight"] if isinstance(net, Ensemble) else net.body[0].weight
        dtype = weight.dtype  # the network computes in its own precision, whatever x's is
        sigma = check_sigma(sigma, x).to(dtype)
        with torch.no_grad():
            return net(x.to(dtype), sigma[..., 0] if sigma.ndim else sigma, label).to(x.dtype)

    return D

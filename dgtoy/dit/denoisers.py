"""Adapters that make a DiT a denoiser D(x, sigma): `EDM` for the small ones trained here, `VP` for DiT's own discrete process."""

import copy

import torch

from .. import vp
from ..graphs import Captured
from ..labelled import check_label
from ..schedules import checked


class Adapter:
    """What both share: `denoiser(label)`, `null`, and what `fit` asks of a network; a subclass gives `_denoise`.

    On a CUDA device the network runs in bfloat16 autocast (`amp`), and `compile()` makes it fast there: it compiles the
    blocks, and denoisers replay one captured graph for each shape of x. The plain way stays the reference in the tests.
    """

    def __init__(self, net, seed=0):
        self.net, self.seeds = net, [seed]
        self.amp, self.graphs = True, None

    null = property(lambda self: self.net.null)
    shape = property(lambda self: self.net.shape)
    config = property(lambda self: dict(self.net.config))

    def __call__(self, x, sigma, label):
        """x (*B, C, H, W), sigma () or (*B,), label () or (*B,) -> x0_hat (*B, C, H, W)"""
        lead = x.shape[:-3]
        x = x.flatten(0, -4)  # (B, C, H, W)
        sigma, label = (torch.as_tensor(a, device=x.device).expand(lead).flatten() for a in (sigma, label))
        return self._denoise(x, sigma, sigma.to(x.dtype)[:, None, None, None], label).unflatten(0, lead)

    def _run(self, x, t, label):
        """The network's output in x's own precision."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp and x.is_cuda):
            return self.net(x, t, label).to(x.dtype)

    def denoiser(self, label):
        """D(x (B, C, H, W), sigma () or (B,)) for a label: an int or (B,). Raises ValueError for a label this model lacks."""
        label = torch.as_tensor(check_label(label, self.null)).to(self.device, torch.long)

        def D(x, sigma):
            if x.ndim < 4 or tuple(x.shape[-3:]) != self.shape:
                raise ValueError(f"x has shape {tuple(x.shape)}; expected {('B', *self.shape)}")
            if label.ndim and label.shape != x.shape[:-3]:
                raise ValueError(
                    f"label has shape {tuple(label.shape)}; expected () or {tuple(x.shape[:-3])} for x {tuple(x.shape)}"
                )
            sigma = checked(sigma, x[..., 0, 0, 0])  # one a sample: it may not follow x's channels
            with torch.no_grad():
                if self.graphs is None or torch.cuda.is_current_stream_capturing():
                    return self(x, sigma, label)
                lead = x.shape[:-3]
                return self.graphs(
                    x, torch.as_tensor(sigma, device=x.device, dtype=x.dtype).expand(lead), label.expand(lead)
                )

        return D

    @property
    def params(self):
        """The parameters that train, by name."""
        return {name: p for name, p in self.net.named_parameters() if p.requires_grad}

    @property
    def device(self):
        return self.net.pos_embed.device

    def around(self, net):
        """The same adapter around another network, not compiled."""
        new = copy.copy(self)
        new.net, new.seeds, new.graphs = net, list(self.seeds), None
        return new

    def with_classes(self, num_classes, seed=0):
        """A copy with a fresh label table for new classes; `seed` draws the table and, later, the training data."""
        new = self.around(self.net.with_classes(num_classes, seed))
        new.seeds = [seed]
        return new

    def clone(self):
        """A copy that shares nothing; compiled if this one is."""
        new = self.around(copy.deepcopy(self.net))
        return new if self.graphs is None else new.compile()

    def to(self, device):
        """This denoiser on another device."""
        self.net.to(device)
        return self

    def compile(self):
        """On a CUDA device, compile the blocks (all share one program) and replay graphs. Elsewhere nothing.  -> this denoiser"""
        if self.device.type == "cuda":
            self.graphs = Captured(self.__call__)
            for block in self.net.blocks:
                block.compile()
        return self


class EDM(Adapter):
    """D(x, sigma | label) = c_skip x + c_out F(c_in x, t(sigma), label), for a network that gives C channels. Karras et al. 2022, table 1.

    sigma_data: the std of data that the preconditioning assumes. Noise levels from 0.002 to 80 fill the range of times
    that a DiT knows: t = 94 ln(sigma / 0.002).
    """

    def __init__(self, net, sigma_data=0.5, seed=0):
        super().__init__(net, seed)
        self.sigma_data = sigma_data

    @property
    def config(self):
        return {**self.net.config, "sigma_data": self.sigma_data}

    def _denoise(self, x, sigma, s, label):
        scale = (s**2 + self.sigma_data**2).sqrt()
        out = self._run(x / scale, sigma_to_t(sigma), label)
        return (self.sigma_data / scale) ** 2 * x + s * self.sigma_data / scale * out


class VP(Adapter):
    """D(x, sigma | label) = x - sigma eps(x / sqrt(1 + sigma^2), t(sigma), label): official DiTs and their fine-tunes.

    The network gives the noise, and after it the variance, which only `vp.ancestral` uses. t(sigma) is the training time
    of that noise level, between two of them by interpolation of ln sigma; levels reach from 0.01 (t = 0) to 157 (t = 999).
    """

    def _denoise(self, x, sigma, s, label):
        out = self._run(x / (1 + s**2).sqrt(), vp.time_of(sigma), label)
        return x - s * out[:, : x.shape[1]]

    def noise(self, label):
        """The network for one label, (x (B, C, H, W), t (B,)) -> (B, 2C, H, W), as `vp`'s samplers take it."""
        label = torch.as_tensor(check_label(label, self.null)).to(self.device, torch.long)
        return lambda x, t: self._run(x, t, label.expand(len(x)))


def sigma_to_t(sigma):
    """The time that stands for a noise level in `EDM`: 94 ln(sigma / 0.002), 0 to 996 for sigma from 0.002 to 80."""
    return 94 * torch.log(sigma.float() / 0.002)

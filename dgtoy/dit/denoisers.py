"""A DiT made a denoiser D(x, sigma) by preconditioning: `EDM`, `VP` for DiT's own process, `Flow`, `SiT`."""

import copy

import torch

from .. import vp
from ..checks import append_dims, check_level, check_number, check_points, check_seed, check_shape, shown
from ..gmm import check_label
from ..graphs import Captured


class Preconditioned:
    """A labelled network F as a denoiser: D(x, sigma | label) = c_skip x + c_out F(x / scale, t, label).

    A subclass says t by `sigma_to_t`, the other three by `scalings`, and by `sigma_range` the noise levels
    that it knows; of F's channels the first C, as many as x has, enter. Like a module it moves in place: `to`
    returns the same object. On a CUDA device the network runs in bfloat16 autocast while `amp` is True.
    `compile` makes it faster there. Raises ValueError for a DiT that is a flow and no `Flow` around it,
    and the other way round. Karras et al. 2022, table 1.
    """

    def __init__(self, net, seed=0):
        if not hasattr(net, "null"):
            raise TypeError(f"net is {shown(net)}; expected a DiT")
        for kind, what in ((Flow, "flow"), (SiT, "SiT")):
            if what.lower() in getattr(net, "config", ()) and not isinstance(self, kind):
                came = f"not {type(self).__name__}(net)"
                raise ValueError(f"net is a {what}; expected {kind.__name__}(net), {came}")
        self.net, self.seeds = net, [check_seed("seed", seed)]
        self.amp, self.graphs = True, None

    null = property(lambda self: self.net.null)
    shape = property(lambda self: self.net.shape)
    config = property(lambda self: dict(self.net.config))
    device = property(lambda self: self.net.pos_embed.device)

    def __call__(self, x, sigma, label):
        """x (*B, C, H, W), sigma () or (*B,), label () or (*B,) -> x0_hat (*B, C, H, W), in x's dtype."""
        lead = x.shape[:-3]
        x = x.flatten(0, -4)  # (B, C, H, W)
        sigma, label = (torch.as_tensor(a, device=x.device).expand(lead).flatten() for a in (sigma, label))
        c_skip, c_out, scale = self.scalings(append_dims(sigma.to(x.dtype), x))
        out = self.predict(x / scale, self.sigma_to_t(sigma), label)
        return (c_skip * x + c_out * out[:, : x.shape[1]]).unflatten(0, lead)

    def predict(self, x, t, label):
        """The network's output F(x, t, label) in x's own precision, whatever `amp` has it computed in."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.amp and x.is_cuda):
            return self.net(x, t, label).to(x.dtype)

    def _label(self, label):
        """A label as a tensor on this device. Raises ValueError for one that this network lacks."""
        return check_label(label, self.null).to(self.device, torch.long)

    def denoiser(self, label):
        """D(x (B, C, H, W), sigma () or (B,)) -> x0_hat for a label, an int or (B,); without a gradient.

        Raises ValueError for a label that this network lacks, and in a call for another shape of x
        or sigma.
        """
        label = self._label(label)

        def D(x, sigma):
            check_points(x=x)
            if x.ndim < 4 or tuple(x.shape[-3:]) != self.shape:
                raise ValueError(f"x has shape {tuple(x.shape)}; expected {('B', *self.shape)}")
            lead = x.shape[:-3]
            check_shape("label", label, lead, x)
            sigma = check_level(sigma, x, point=3).to(x.device, x.dtype)  # one per sample: not per channel
            sigma = append_dims(sigma, x[..., 0, 0, 0])
            with torch.no_grad():
                if self.graphs is None or torch.cuda.is_current_stream_capturing():
                    return self(x, sigma, label)
                return self.graphs(x, sigma.expand(lead), label.expand(lead))

        return D

    @property
    def params(self):
        """The parameters that train, by name."""
        return {name: p for name, p in self.net.named_parameters() if p.requires_grad}

    def with_net(self, net):
        """The same preconditioning of another network, not compiled."""
        new = copy.copy(self)
        new.net, new.seeds, new.graphs = net, list(self.seeds), None
        return new

    def with_classes(self, num_classes, seed=0):
        """A copy with a fresh label table for new classes; `seed` draws it, and later the training data.

        Raises TypeError or ValueError for a number of classes or a seed that cannot be.
        """
        new = self.with_net(self.net.with_classes(num_classes, seed))
        new.seeds = [check_seed("seed", seed)]
        return new

    def clone(self):
        """A copy that shares nothing; compiled if this one is."""
        new = self.with_net(copy.deepcopy(self.net))
        return new if self.graphs is None else new.compile()

    def to(self, device):
        """Move the network to another device, in place, as torch's modules do.  -> self"""
        self.net.to(device)
        return self

    def compile(self):
        """On a CUDA device, compile the blocks (one program for all) and replay one graph per shape of x.

        In place; elsewhere nothing changes. The plain way stays the reference in the tests.  -> self
        """
        if self.device.type == "cuda":
            self.graphs = Captured(self.__call__)
        return self.compile_blocks()

    def compile_blocks(self):
        """The half of `compile` that training wants, whose steps are graphs by themselves.  -> self"""
        if self.device.type == "cuda":
            for block in self.net.blocks:
                block.compile()
        return self


class EDM(Preconditioned):
    """D = c_skip x + c_out F(c_in x, t, label), F giving C channels. Karras et al. 2022, table 1.

    With scale = sqrt(sigma^2 + sigma_data^2): c_skip = (sigma_data / scale)^2, c_out = sigma sigma_data /
    scale, c_in = 1 / scale. sigma_data: the std of data that this assumes. Noise levels from 0.002 to 80 fill
    the range of times that a DiT knows: t = 94 ln(sigma / 0.002).
    """

    sigma_range = 0.002, 80.0

    def __init__(self, net, sigma_data=0.5, seed=0):
        super().__init__(net, seed)
        check_number("sigma_data", sigma_data, "(0, inf)")
        self.sigma_data = sigma_data

    @property
    def config(self):
        return {**self.net.config, "sigma_data": self.sigma_data}

    @staticmethod
    def sigma_to_t(sigma):
        """94 ln(sigma / 0.002), 0 to 996 for sigma from 0.002 to 80: the time of a noise level, (B,)."""
        return 94 * torch.log(sigma.float() / 0.002)

    def scalings(self, sigma):
        """sigma (B, 1, 1, 1) -> c_skip, c_out, scale"""
        scale = (sigma**2 + self.sigma_data**2).sqrt()
        return (self.sigma_data / scale) ** 2, sigma * self.sigma_data / scale, scale


class VP(Preconditioned):
    """D = x - sigma eps(x / sqrt(1 + sigma^2), t, label): official DiTs and their fine-tunes.

    The network gives the noise eps, and after it the variance, which only `vp.ancestral` uses. t is the
    training time of the noise level, between two of them by interpolation of ln sigma; levels reach from 0.01
    (t = 0) to 157 (t = 999). Below, t = 0 stands in, where D hardly differs from x; above, D(x, sigma) is
    D(157 x / sigma, 157).
    """

    sigma_to_t = staticmethod(vp.sigma_to_t)
    sigma_range = tuple(vp.Process().sigmas[[0, -1]].tolist())

    def __call__(self, x, sigma, label):
        sigma = torch.as_tensor(sigma, device=x.device)
        top = self.sigma_range[1]
        share = torch.where(sigma > top, top / sigma, 1.0)  # eps times a higher level would grow without end
        return super().__call__(x * append_dims(share.to(x.dtype), x), sigma * share, label)

    def scalings(self, sigma):
        """sigma (B, 1, 1, 1) -> c_skip, c_out, scale"""
        return 1, -sigma, (1 + sigma**2).sqrt()

    def noise(self, label):
        """The network of one label, (x (B, C, H, W), t (B,)) -> (B, 2C, H, W), for `vp`'s samplers."""
        label = self._label(label)
        return lambda x, t: self.predict(x, t, label.expand(len(x)))


class Flow(Preconditioned):
    """D = x_t - t v(x_t, 1000 t, label), with t = sigma / (1 + sigma) and x_t = x / (1 + sigma).

    The network gives the velocity v = eps - x0 of the straight path x_t = (1 - t) x0 + t eps, which is
    x = x0 + sigma eps scaled by 1 - t: so a flow is a denoiser, and goes wherever one goes. Liu et al. 2023,
    Ma et al. 2024 (SiT).
    """

    sigma_range = 0.004, 80.0

    def __init__(self, net, seed=0):
        super().__init__(net, seed)
        if not isinstance(self, SiT) and "flow" not in getattr(net, "config", ("flow",)):
            raise ValueError("net is a DiT that gives noise; expected VP(net), or of a flow DiT(flow=True)")

    @staticmethod
    def sigma_to_t(sigma):
        """1000 sigma / (1 + sigma), 0 to 1000: the time of a noise level, (B,)."""
        return 1000 * sigma / (1 + sigma)

    def scalings(self, sigma):
        """sigma (B, 1, 1, 1) -> c_skip, c_out, scale"""
        return 1 / (1 + sigma), -sigma / (1 + sigma), 1 + sigma


class SiT(Flow):
    """D = x_t + t v(x_t, 1 - t, label), with t = sigma / (1 + sigma) and x_t = x / (1 + sigma).

    The official SiT, whose checkpoints have the names of DiT's: its time runs from noise at 0 to data at 1,
    and it gives v = x0 - eps, the first half of its channels. Ma et al. 2024.

        SiT(load_pretrained("SiT-XL-2-256x256.pt")).denoiser(label)

    The DiT is marked as one, `DiT(sit=True)`, so that a file of its weights tells.
    """

    def __init__(self, net, seed=0):
        config = getattr(net, "config", dict(sit=True))
        for kind, fit in dict(flow="Flow", velocity="VP").items():
            if kind in config:
                raise ValueError(f"net is a DiT({kind}=True); expected {fit}(net), not SiT(net)")
        super().__init__(net, seed)
        if "sit" not in config:
            config["sit"] = True
            net.register_buffer("sit", net.pos_embed.new_ones(()))

    @staticmethod
    def sigma_to_t(sigma):
        """1 / (1 + sigma), 1 to 0: the time of a noise level, (B,)."""
        return 1 / (1 + sigma)

    def scalings(self, sigma):
        """sigma (B, 1, 1, 1) -> c_skip, c_out, scale"""
        return 1 / (1 + sigma), sigma / (1 + sigma), 1 + sigma


def preconditioned(net, seed=0):
    """The denoiser of a DiT by what its weights say that it gives: `Flow`, `SiT`, else `VP`."""
    kind = Flow if "flow" in net.config else SiT if "sit" in net.config else VP
    return kind(net, seed)

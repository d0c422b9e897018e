"""What a fine-tune minimises: the loss of the noise, that of a flow, and DogFit's."""

import torch

from .. import vp
from ..checks import append_dims, check_number, shown
from ..dit import VP, Flow, SiT


class NoiseObjective:
    """DiT's training: a time from 0 to 999, and the loss of the noise and its variance, `vp.training_loss`.

    Another objective is another class with these two methods.
    """

    def __init__(self):
        self.process = vp.Process()

    @staticmethod
    def times(n, generator):
        """Times (n,) of a batch, on the CPU."""
        return torch.randint(vp.TIMES, (n,), generator=generator)

    def __call__(self, net, x0, label, time, eps):
        """The mean loss () of a batch; on a CUDA device the network computes in bfloat16."""
        self.process = self.process.to(x0.device)
        x = self.process.noised(x0, time, eps)
        loss, _, _ = vp.training_loss(net.predict(x, time, label), x0, x, time, eps, self.process)
        return loss.mean()

    def linear(self, power, time):
        """The variance of the noise given x, per frequency of images of this power."""
        a = self.process.alphas_cumprod.cpu()[time]
        return a * power / (a * power + 1 - a)


class FlowObjective:
    """A flow's training: |v(x_t, 1000 t) - (eps - x0)|^2 with x_t = (1 - t) x0 + t eps and t = sigmoid(z),
    z ~ N(0.3, 1). Esser et al. 2024, sec. 3.1.
    """

    @staticmethod
    def times(n, generator):
        """Times (n,) of a batch, within (0, 1), on the CPU."""
        return torch.sigmoid(0.3 + torch.randn(n, generator=generator, device=generator.device))

    def __call__(self, net, x0, label, time, eps):
        """The mean loss () of a batch; on a CUDA device the network computes in bfloat16."""
        x = torch.lerp(x0, eps, append_dims(time, x0))
        return (velocity(net, x, time, label) - (eps - x0)).square().mean()

    @staticmethod
    def linear(power, time):
        """The variance of the velocity given x_t, per frequency of images of this power."""
        return power / ((1 - time) ** 2 * power + time**2)


class DogFit(FlowObjective):
    """A flow that learns to be guided: one call a step gives what Domain Guidance of weight w gives in two.

    Labelled pictures aim at eps - x0 + (1 - 1/w) (v - v_guide), v the network's own estimate, held fixed, and
    v_guide that of the pre-trained `guide` without a label; where that has converged, v = v_guide +
    w (v_flow - v_guide). Bahram et al. 2025. `train.fit` learns the same on denoisers; the w of its recipe is
    2 - 1/w of this one. Raises ValueError unless 1 <= w < inf.
    """

    def __init__(self, guide, w):
        self.guide, self.w = guide, check_number("w", w, "[1, inf)")

    def __call__(self, net, x0, label, time, eps):
        x, flow = torch.lerp(x0, eps, append_dims(time, x0)), eps - x0
        v = velocity(net, x, time, label)
        with torch.no_grad():
            away = v - velocity(self.guide, x, time, torch.full_like(label, self.guide.null))
        extra = append_dims((1 - 1 / self.w) * (label != net.null), x0)
        return (v - flow - extra * away).square().mean()


def objective_of(net):
    """What a network was pre-trained by: `FlowObjective` of a `Flow`, `NoiseObjective` of a `VP`.

    Raises TypeError for any other, ValueError for a `VP` whose network gives no variance.
    """
    if isinstance(net, Flow):
        return FlowObjective()
    check_kind(net, VP)
    if not net.config["learn_sigma"]:
        raise ValueError("net gives the noise alone; expected a DiT that learned its variance too, or a flow")
    return NoiseObjective()


def check_kind(net, kind, name="net"):
    """Raise TypeError, naming it, for a network that is not of this kind."""
    if not isinstance(net, kind):
        raise TypeError(f"{name} is {shown(net)}; expected a {kind.__name__}")


def velocity(net, x, time, label):
    """eps - x0 as a `Flow`, or a `SiT`, tells it at x = (1 - t) x0 + t eps and t = time (B,), in float32."""
    official = isinstance(net, SiT)
    out = net.predict(x, 1 - time if official else 1000 * time, label)[:, : x.shape[1]]
    return -out if official else out

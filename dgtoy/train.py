"""Training: what one step sees, the `fit` generator, the average of the weights, checkpoint and resume.

The randomness of step t of seed k is a function of (k, t) alone: each seed owns generators, one for each block of
steps. So a member of an ensemble sees what it would see alone, and a resumed run what it would have seen.
"""

import dataclasses
import math
from typing import NamedTuple

import torch

from .checkpoint import resume, save_checkpoint, start_moments
from .graphs import Captured
from .labelled import LabelledMixture, check_label
from .schedules import log_normal

BLOCK = 64  # steps whose random numbers are drawn together


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train. `dropout` is the share of labels replaced by null; `noise` (mean, std) of ln sigma.

    w: 1, or the weight of Domain Guidance that is learned into the network after the share `late` of the steps (`fit`).
    """

    steps: int = 2000
    batch: int = 256
    lr: float = 1e-3
    dropout: float = 0.1
    ema: float = 0.999
    noise: tuple = (-0.5, 1.6)
    w: float = 1.0
    late: float = 0.5

    def __post_init__(self):
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout is {self.dropout}; expected a share between 0 and 1")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected 0 <= ema < 1")
        if self.batch < 1 or self.steps < 0 or not 0 < self.lr < math.inf:
            raise ValueError(
                f"steps, batch, lr are {self.steps}, {self.batch}, {self.lr}; expected >= 0, >= 1, > 0 and finite"
            )
        if not math.isfinite(self.noise[0]) or not 0 <= self.noise[1] < math.inf:
            raise ValueError(f"noise is {self.noise}; expected the finite mean and std of ln sigma, std >= 0")
        if not 1 <= self.w < 2 or not 0 <= self.late <= 1:
            raise ValueError(
                f"w, late are {self.w}, {self.late}; expected 1 <= w < 2 (beyond, the learned field has no fixed point) and 0 <= late <= 1"
            )


class Step(NamedTuple):
    """What `fit` yields: steps taken so far, and the loss (S,) of the last one."""

    step: int
    loss: torch.Tensor


class Points:
    """A finite training set for each seed: x0 (S, n, *D), label (S, n). A draw picks with replacement."""

    def __init__(self, x0, label):
        if x0.ndim < 3 or label.shape != x0.shape[:2]:
            raise ValueError(
                f"x0, label have shapes {tuple(x0.shape)}, {tuple(label.shape)}; expected (S, n, *D), (S, n)"
            )
        self.x0, self.label = x0, label

    def to(self, device):
        return Points(self.x0.to(device), self.label.to(device))

    def draw(self, u, z):
        """u (S, ...) uniform -> x0 (S, ..., *D), label (S, ...)"""
        n = self.x0.shape[1]
        rows = (u * n).long().clamp_(max=n - 1)
        seed = torch.arange(len(u), device=u.device).reshape(-1, *(1,) * (u.ndim - 1))
        return self.x0[seed, rows], self.label[seed, rows]


def batches(data, seeds, recipe, null, block, dim, device="cpu"):
    """The inputs of BLOCK training steps, first axis the seed: x0, label, sigma, noisy x.

    data: anything with draw(u, z) -> x0, label: `Points`; a `LabelledMixture` or a `World` for unlimited data.
    dim: of a point, or the shape of an image.
    """
    shape = (dim,) if isinstance(dim, int) else tuple(dim)
    dim = math.prod(shape)
    u = torch.empty(len(seeds), 2, BLOCK, recipe.batch, device=device)
    z = torch.empty(len(seeds), 1 + 2 * dim, BLOCK, recipe.batch, device=device)
    for k, seed in enumerate(seeds):
        generator = torch.Generator(device).manual_seed(seed * 1_000_003 + block)
        u[k].uniform_(generator=generator), z[k].normal_(generator=generator)
    x0, label = data.draw(u[:, 0], z[:, 1 : 1 + dim].movedim(1, -1))  # (S, BLOCK, B, D), (S, BLOCK, B)
    label = torch.where(u[:, 1] < recipe.dropout, null, label)
    sigma = log_normal(z[:, 0], *recipe.noise)
    return x0, label, sigma, x0 + beside(sigma, x0) * z[:, 1 + dim :].movedim(1, -1).unflatten(-1, shape)


def beside(a, x):
    """a (*B) with an axis of length 1 for each further one of x (*B, *D), so that the two multiply."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim))


def denoising_loss(x0_hat, x0, sigma, sigma_data):
    """Mean over the batch of (1/sigma^2 + 1/sigma_data^2) |x0_hat - x0|^2.  (..., B, *D) -> (...). Karras et al. 2022, eq. 8.

    sigma (..., B) tells where the axes of a point begin.
    """
    weight = 1 / sigma**2 + 1 / sigma_data**2
    return (beside(weight, x0) * (x0_hat - x0) ** 2).mean(tuple(range(sigma.ndim - 1, x0.ndim)))


def fit(net, data, recipe, ema=None, checkpoint=None, every=500, guide=None):
    """Train an `Ensemble` or an `EDM` in place, every member on its own seed's data order; a generator of `Step`.

    data: see `batches`. ema: a clone of net that receives the moving average of its weights (warm-up: decay
    min(ema, (1 + t) / (10 + t))). checkpoint: a file written every `every` steps and at the end, complete or not at
    all; where it exists already, training goes on from it as if it had never stopped.
    guide: with recipe.w > 1, the pre-trained denoiser of DogFit (Bahram et al. 2025): labelled samples are then trained
    towards x0 + (w - 1) (D - D_guide), D the network's own estimate, held fixed. Where that has converged,
    D = D_guide + (D_x0 - D_guide) / (2 - w): Domain Guidance of weight 1 / (2 - w) in one call.
    Raises FloatingPointError at a non-finite loss, naming step and seed; the weights are then those before that step.
    """
    _check_data(net, data)
    if (recipe.w > 1) != (guide is not None):
        raise ValueError(
            f"recipe.w is {recipe.w} and guide is {'missing' if guide is None else 'given'}; expected a guide with w > 1 and none with w = 1"
        )
    params = list(net.params.values())
    optimizer = torch.optim.Adam(params, lr=recipe.lr, fused=True, capturable=net.device.type == "cuda")
    start_moments(optimizer)
    start = resume(checkpoint, net, ema, optimizer, recipe) if checkpoint else 0
    return _iterate(net, data, recipe, ema, checkpoint, every, optimizer, start, guide)


def _check_data(net, data):
    """Raise if a training set is not one that these networks can learn: other seeds, dimension or labels."""
    if not hasattr(net, "params"):
        raise TypeError(
            f"net is a {type(net).__name__}; expected an Ensemble (one network: Ensemble([net])) or an EDM"
        )
    if isinstance(data, Points):
        expected = (len(net.seeds), data.x0.shape[1], *net.shape)
        if data.x0.shape != expected:
            raise ValueError(
                f"data has x0 of shape {tuple(data.x0.shape)}; expected ({expected[0]}, n, {', '.join(map(str, net.shape))})"
            )
        check_label(data.label, net.null)
    elif isinstance(data, LabelledMixture):
        if (data.means.shape[1],) != net.shape:
            raise ValueError(
                f"data has dimension {data.means.shape[1]}; expected {', '.join(map(str, net.shape))}"
            )
        check_label(data.labels, net.null)
    elif hasattr(data, "num_classes"):
        came, expected = (data.num_classes, getattr(data, "size", net.shape[-1])), (net.null, net.shape[-1])
        if came != expected:
            raise ValueError(
                f"data has {came[0]} classes and images of side {came[1]}; expected {expected[0]} and {expected[1]}"
            )


def _iterate(net, data, recipe, ema, checkpoint, every, optimizer, start, guide):
    work = _Work(net, ema, optimizer, guide)
    inputs = None
    for step in range(start, recipe.steps):
        if inputs is None or step % BLOCK == 0:
            inputs = batches(data, net.seeds, recipe, net.null, step // BLOCK, net.shape, net.device)
        x0, label, sigma, x = (a[:, step % BLOCK] for a in inputs)
        work.extra(recipe.w - 1 if step >= recipe.late * recipe.steps else 0.0)
        loss = work.gradient(x0, label, sigma, x)
        if not bool(loss.isfinite().all()):
            seed = net.seeds[int((~loss.isfinite()).nonzero()[0])]
            if checkpoint:
                save_checkpoint(checkpoint, net, ema, optimizer, recipe, step)
            raise FloatingPointError(
                f"the loss of seed {seed} is not finite at step {step + 1}; the weights are those of step {step}"
            )
        work.update(min(recipe.ema, (1 + step) / (10 + step)))
        if checkpoint and ((step + 1) % every == 0 or step + 1 == recipe.steps):
            save_checkpoint(checkpoint, net, ema, optimizer, recipe, step + 1)
        yield Step(step + 1, loss)


class _Work:
    """One training step in two halves, gradient and update; on a GPU each half is one captured graph."""

    def __init__(self, net, ema, optimizer, guide=None):
        self.net, self.optimizer, self.guide, self.share = net, optimizer, guide, 0.0
        self.params = list(net.params.values())
        self.averages = [ema.params[k].detach() for k in net.params] if ema else []
        self._anew()

    def _anew(self):
        """Capture both halves at their next call: the update reads gradients from where the gradient's graph leaves them."""
        self.gradient, self._captured_update = Captured(self._gradient), Captured(self._update, warm=0)

    def extra(self, share):
        """How much of the guide's difference the targets hold from now on: 0, or w - 1."""
        if share != self.share:
            self.share = share
            self._anew()

    def update(self, decay):
        """One step of the optimizer, and of the averages with this decay."""
        self._captured_update(torch.full((), decay, device=self.params[0].device))

    def _gradient(self, x0, label, sigma, x):
        x0_hat = self.net(x, sigma, label)
        if self.share:
            learned = x0 + self.share * (x0_hat.detach() - self.guide(x, sigma))
            x0 = torch.where(beside(label == self.net.null, x0), x0, learned)
        loss = denoising_loss(x0_hat, x0, sigma, self.net.sigma_data)  # (S,)
        grads = torch.autograd.grad(loss.sum(), self.params)
        for p, g in zip(self.params, grads):
            p.grad = g
        return loss.detach()

    def _update(self, decay):
        self.optimizer.step()
        if self.averages and decay.is_cuda:  # three launches, whatever the number of weights
            torch._foreach_mul_(self.averages, decay)
            torch._foreach_add_(
                self.averages, torch._foreach_mul([p.detach() for p in self.params], 1 - decay)
            )
            return
        for average, p in zip(self.averages, self.params):
            average.lerp_(p.detach(), 1 - decay)

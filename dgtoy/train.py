"""Training small networks: what a step sees, its loss, and `fit`, which runs `trainer`'s loop on them."""

import dataclasses
import functools
import math

import torch

from .checks import append_dims, check_denoisers, check_estimate, check_whole, shown
from .gmm import LabelledMixture, check_label
from .samplers import log_normal
from .trainer import Trainer, TrainingConfig, check_ranges, generator

BLOCK = 64  # steps whose random numbers `fit` draws together


@dataclasses.dataclass(frozen=True)
class Recipe(TrainingConfig):
    """How `fit` trains.

    P_mean, P_std: of ln sigma, the noise levels of training (Karras et al. 2022, table 1). w: 1, or below 2
    the weight in DogFit's training target, from the share `late` of the steps on: what is learned is Domain
    Guidance of weight 1 / (2 - w), see `fit`. Raises ValueError for values out of range.
    """

    P_mean: float = -0.5
    P_std: float = 1.6
    w: float = 1.0
    late: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        # beyond w = 2 the learned field has no fixed point
        check_ranges(self, P_mean="(-inf, inf)", P_std="[0, inf)", w="[1, 2)", late="[0, 1]")

    def same_until(self, step):
        """As in TrainingConfig; but with w > 1 the number of steps says when guidance starts."""
        return super().same_until(step) and self.w == 1


class Points:
    """A finite training set for each seed: x0 (S, n, *D), label (S, n). A draw picks with replacement."""

    def __init__(self, x0, label):
        if not (torch.is_tensor(x0) and torch.is_tensor(label)):
            raise TypeError(f"x0, label are {shown(x0)}, {shown(label)}; expected tensors")
        if x0.ndim < 3 or label.shape != x0.shape[:2] or not x0.numel():
            raise ValueError(
                f"x0, label have shapes {tuple(x0.shape)}, {tuple(label.shape)}; expected (S, n, *D), (S, n)"
            )
        self.x0, self.label = x0.detach(), label

    def to(self, device):
        """A copy on another device, as of all data and tables; networks move in place."""
        return Points(self.x0.to(device), self.label.to(device))

    def draw(self, u, z):
        """u (S, ...) uniform -> x0 (S, ..., *D), label (S, ...)"""
        n = self.x0.shape[1]
        rows = (u * n).long().clamp_(max=n - 1)
        seed = append_dims(torch.arange(len(u), device=u.device), u)
        return self.x0[seed, rows], self.label[seed, rows]


def batches(data, seeds, recipe, null, block, dim, device="cpu"):
    """The inputs of BLOCK training steps, first axis the seed: x0, label, sigma, noisy x.

    data: anything with draw(u, z) -> x0, label: `Points`; a `LabelledMixture` or a `World` for unlimited
    data. dim: of a point, or the shape of an image.
    """
    shape = (dim,) if isinstance(dim, int) else tuple(dim)
    dim = math.prod(shape)
    u = torch.empty(len(seeds), 2, BLOCK, recipe.batch, device=device)
    z = torch.empty(len(seeds), 1 + 2 * dim, BLOCK, recipe.batch, device=device)
    for k, seed in enumerate(seeds):
        g = generator(seed, block, device)
        u[k].uniform_(generator=g)
        z[k].normal_(generator=g)
    x0, label = data.draw(u[:, 0], z[:, 1 : 1 + dim].movedim(1, -1))  # (S, BLOCK, B, D), (S, BLOCK, B)
    label = torch.where(u[:, 1] < recipe.dropout, null, label)
    sigma = log_normal(z[:, 0], recipe.P_mean, recipe.P_std)
    return x0, label, sigma, x0 + append_dims(sigma, x0) * z[:, 1 + dim :].movedim(1, -1).unflatten(-1, shape)


def denoising_loss(x0_hat, x0, sigma, sigma_data):
    """Mean over the batch of (1/sigma^2 + 1/sigma_data^2) |x0_hat - x0|^2.  (..., B, *D) -> (...)

    sigma (..., B) tells where the axes of a point begin. Raises ValueError for an estimate of another shape.
    Karras et al. 2022, eq. 8.
    """
    if x0_hat.shape != x0.shape:
        raise ValueError(f"x0_hat has shape {tuple(x0_hat.shape)}; expected {tuple(x0.shape)}, that of x0")
    weight = 1 / sigma**2 + 1 / sigma_data**2
    return (append_dims(weight, x0) * (x0_hat - x0) ** 2).mean(tuple(range(sigma.ndim - 1, x0.ndim)))


def fit(net, data, recipe, ema=None, checkpoint=None, every=500, guide=None):
    """Train an `Ensemble` or an `EDM` in place, each member on its seed's data order; yields `Step`s.

    data: see `batches`. ema: a clone of net that receives the moving average of its weights (warm-up: decay
    min(ema, (1 + t) / (10 + t))). checkpoint: a file written every `every` steps and at the end, complete or
    not at all; where it exists already, training goes on from it as if it had never stopped; whether the
    data are the same it does not ask, so give other data another file.
    guide: with recipe.w > 1, the pre-trained denoiser of DogFit (Bahram et al. 2025): labelled samples are
    then trained towards x0 + (w - 1) (D - D_guide), D the network's own estimate, held fixed. Where that has
    converged, D = D_guide + (D_x0 - D_guide) / (2 - w): Domain Guidance of weight 1 / (2 - w) in one call.
    Raises FloatingPointError at a non-finite loss, naming step and seed; the weights are then those before
    that step.
    """
    _check_data(net, data)
    check_whole("every", every, 1)
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe is {shown(recipe)}; expected a Recipe")
    if (recipe.w > 1) != (guide is not None):
        raise ValueError(
            f"recipe.w is {recipe.w} and guide is {'missing' if guide is None else 'given'};"
            " expected a guide with w > 1 and none with w = 1"
        )
    if guide is not None:
        check_denoisers(guide=guide)
    trainer = Trainer(net, functools.partial(_loss, guide), recipe, ema)
    batch_fn = _batch_fn(net, data, recipe)
    if checkpoint is None:
        return trainer.run(batch_fn)
    trainer.resume(checkpoint)
    return trainer.saved(batch_fn, checkpoint, every)


def _batch_fn(net, data, recipe):
    """step -> what it sees: x0, label, sigma, x, first axis the seed; and w - 1 once guidance is learned."""

    dtype = next(iter(net.params.values())).dtype

    def widened(a):
        """In the network's precision where that is finer."""
        return a.to(torch.promote_types(a.dtype, dtype)) if a.is_floating_point() else a

    @functools.lru_cache(maxsize=1)
    def drawn(block):
        """The inputs of each step of a block."""
        inputs = batches(data, net.seeds, recipe, net.null, block, net.shape, net.device)
        return list(zip(*(widened(a).unbind(1) for a in inputs)))

    def batch_fn(step):
        batch = list(drawn(step // BLOCK)[step % BLOCK])
        if recipe.w > 1 and step >= recipe.late * recipe.steps:
            batch.append(torch.full((), recipe.w - 1, device=net.device))
        return batch

    return batch_fn


def _loss(guide, net, x0, label, sigma, x, extra=None):
    """The denoising loss (S,); with `extra` = w - 1 labelled samples aim at x0 + extra (D - D_guide)."""
    x0_hat = net(x, sigma, label)
    if extra is not None:
        learned = x0 + extra * (x0_hat.detach() - check_estimate("guide", guide(x, sigma), x))
        x0 = torch.where(append_dims(label == net.null, x0), x0, learned)
    return denoising_loss(x0_hat, x0, sigma, net.sigma_data)


def _check_data(net, data):
    """Raise if a training set is not one that these networks can learn: other seeds, dimension or labels."""
    if not hasattr(net, "params"):
        raise TypeError(
            f"net is a {type(net).__name__}; expected an Ensemble (one network: Ensemble([net])) or an EDM"
        )
    if not net.params:
        raise ValueError("net has no parameters that train; expected some with requires_grad")
    if not hasattr(data, "draw"):
        raise TypeError(f"data is {shown(data)}; expected Points, a LabelledMixture or a World")
    if isinstance(data, Points):
        came = f"x0 of shape {tuple(data.x0.shape)} in {data.x0.dtype}"
        dtype = next(iter(net.params.values())).dtype
        expected = f"x0 of shape {(len(net.seeds), data.x0.shape[1], *net.shape)} in {dtype}"
        labels = data.label
    elif isinstance(data, LabelledMixture):
        came = f"{data.num_classes} classes and points of shape {tuple(data.means.shape[1:])}"
        expected = f"{min(data.num_classes, max(net.null, 1))} classes and points of shape {net.shape}"
        labels = data.labels
    elif hasattr(data, "num_classes"):
        came = f"{data.num_classes} classes and images of side {getattr(data, 'size', net.shape[-1])}"
        expected = f"{net.null} classes and images of side {net.shape[-1]}"
        labels = net.null
    else:
        return
    check_label(labels, net.null)
    if came != expected:
        raise ValueError(f"data has {came}; expected {expected}")

"""How much guidance does a model need? Least-squares weights from held-out data, one for each noise level."""

import dataclasses
import inspect
import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from .checks import (
    check_denoisers,
    check_estimate,
    check_generator,
    check_numbers,
    check_points,
    check_seed,
    check_whole,
    readable,
    shown,
)
from .samplers import Denoiser, normal


@dataclasses.dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Calibration:
    """Weights at sigmas (n,): weights, low, high (n, 1) for one direction, (n, 2) for a and b of the plane.

    low and high are a 95% bootstrap interval over the held-out points, without end for fewer than 6 of them,
    which no bootstrap covers so often; at 8 it holds 90%. `w`, `a` and `b` are functions of sigma, linear in
    ln sigma between the levels and constant beyond them: they go where guidance takes a weight.
    """

    sigmas: torch.Tensor
    weights: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor

    def w(self, sigma):
        """The weight of one direction, or a, at sigma (...) > 0.  -> (...) float64"""
        return self._at(sigma, 0)

    a = w

    def b(self, sigma):
        """The weight of the class direction. Raises ValueError where the calibration has one direction."""
        return self._at(sigma, 1)

    def _at(self, sigma, column):
        if column == self.weights.shape[1]:
            raise ValueError("b is not known: the calibration has one direction; expected one with `middle`")
        sigma = check_numbers("sigma", sigma, torch.float64)
        if readable(sigma) and not (sigma > 0).all():
            raise ValueError(f"sigma is {sigma.min():g}; expected noise levels > 0")
        order = self.sigmas.argsort()
        log_sigmas = self.sigmas[order].log().numpy()
        weights = self.weights[order, column].numpy()
        found = np.interp(sigma.detach().cpu().double().log().numpy(), log_sigmas, weights)
        return torch.as_tensor(found, device=sigma.device)


def calibrate(
    main: Denoiser | Callable[[Tensor], Denoiser],
    guide: Denoiser,
    data,
    sigmas: Tensor,
    middle: Denoiser | None = None,
    generator: torch.Generator | None = None,
    resamples: int = 400,
    batch: int = 1024,
) -> Calibration:
    """The weights that bring guided denoising closest to held-out data, level by level.

    With x = x0 + sigma eps it minimises E |x0 - D_w(x, sigma)|^2 over the weights of the affine combination.
    For one direction that is
        w*(sigma) = <x0 - D_guide, D_main - D_guide> / |D_main - D_guide|^2;
    with `middle`, the fine-tuned model's null branch, a and b of the plane solve the 2 x 2 normal equations
    of the directions D_middle - D_guide and D_main - D_middle.
    Guided by these weights, the combination completes an unfinished fine-tune (w* > 1) or restrains an
    overfitted one.

    main, guide, middle: denoisers. data: x0 (N, *D), a pair (x0, label (N,)), or an iterable of either, read
    once; where it has labels, `main` is the function label -> denoiser. sigmas (n,): the levels. generator:
    of the noise and the bootstrap, which is a Poisson one, so that memory does not grow with the data. batch:
    points at a time; another number draws other noise.  -> Calibration
    Raises ValueError for a level that is not positive, data without points, or models (with `middle`,
    directions) that do not differ; FloatingPointError, naming level and batch, where a model is not finite.
    """
    return _solved(*_summed(main, guide, middle, data, sigmas, generator, resamples, batch))


def calibrate_methods(main, null, pretrained, data, sigmas, seed=0, device="cpu", resamples=400, batch=1024):
    """w* of Domain Guidance, w* of CFG, and a*, b* of the plane, on the same noise: three calls per point.

    The plane's normal equations hold those of both lines. With d = D_null - D_pre and c = D_main - D_null,
    DoG's direction is d + c, which explains x0 - D_pre; CFG's is c, which explains (x0 - D_pre) - d.

    main, data, sigmas, resamples, batch: of `calibrate`. null: the fine-tune's null branch. pretrained: the
    guide. seed, device: of the noise.  -> {"DoG", "CFG", "plane": Calibration}. Raises what `calibrate` does.
    """
    noise = torch.Generator(device).manual_seed(check_seed("seed", seed))
    sigmas, points, gram, side = _summed(main, pretrained, null, data, sigmas, noise, resamples, batch)
    both = _solved(sigmas, points, gram.sum((-2, -1), keepdim=True), side.sum(-1, keepdim=True))
    alone = _solved(sigmas, points, gram[..., 1:, 1:], side[..., 1:] - gram[..., 0, 1:])
    return dict(DoG=both, CFG=alone, plane=_solved(sigmas, points, gram, side))


def _summed(main, guide, middle, data, sigmas, generator, resamples, batch):
    """The normal equations of `calibrate` summed over the points, and over those of each resample.

    -> sigmas (n,), points, gram (1 + R, n, d, d), side (1 + R, n, d)
    """
    check_denoisers(main=main, guide=guide)
    if middle is not None:
        check_denoisers(middle=middle)
    check_generator(generator)
    check_whole("resamples", resamples, 1)
    check_whole("batch", batch, 1)
    sigmas = check_numbers("sigmas", sigmas, torch.float64).double().flatten()
    if not len(sigmas) or not bool((sigmas.isfinite() & (sigmas > 0)).all()):
        raise ValueError(f"sigmas is {sigmas.tolist()}; expected positive, finite levels")
    host = generator  # of the bootstrap, which is drawn on the CPU
    if generator is not None and generator.device.type != "cpu":
        host = torch.Generator().manual_seed(generator.initial_seed())
    directions = 1 if middle is None else 2
    points, sums = 0, 0  # the normal equations (1 + R, n, directions^2 + directions), summed over the points
    for k, (x0, label) in enumerate(_batches(data, batch)):
        _check_main(main, label)
        D = main if label is None else main(label)
        rows = torch.stack([_equations(D, guide, middle, x0, s, generator) for s in sigmas], 1)  # (B, n, ...)
        finite = rows.isfinite().all(-1).all(0).cpu()  # (n,)
        if not finite.all():
            raise FloatingPointError(
                f"the models are not finite at sigma = {sigmas[~finite][0]:g} in batch {k} of data"
            )
        counts = torch.ones(1 + resamples, len(x0), dtype=torch.float64, device="cpu")
        counts[1:] = torch.poisson(counts[1:], generator=host)
        sums += torch.einsum("rb,bns->rns", counts, rows.cpu())
        points += len(x0)
    gram = sums[..., :-directions].unflatten(-1, (directions, directions))
    return sigmas, points, gram, sums[..., -directions:]


def _solved(sigmas, points, gram, side):
    """The weights that solve the normal equations, with the resamples' intervals.  -> Calibration"""
    squares = gram[0].diagonal(dim1=1, dim2=2)  # (n, directions)
    cosines = (gram[0] / (squares[:, None] * squares[:, :, None]).sqrt()).nan_to_num()
    flat = torch.linalg.eigvalsh(cosines)[:, 0] <= 1e-10  # less is the rounding of models in float32
    flat |= (squares <= 1e-14 * side[0].abs()).any(1)
    if flat.any():
        same = "models" if side.shape[-1] == 1 else "two directions of the plane"
        raise ValueError(
            f"the {same} do not differ at sigma = {sigmas[flat][0]:g}: no weight can be estimated"
        )
    solved = torch.linalg.lstsq(gram, side[..., None]).solution[..., 0]  # (1 + R, n, directions)
    tails = torch.quantile(solved[1:], solved.new_tensor([0.025, 0.975]), dim=0)
    beyond = math.inf if points < 6 else 0.0  # all n on one side of the truth, 2^(1 - n) of the time
    return Calibration(sigmas, solved[0], tails[0] - beyond, tails[1] + beyond)


@torch.no_grad()
def _equations(main, guide, middle, x0, sigma, generator):
    """Each point's normal equations: Gram matrix of the directions, then their products with the residual."""
    x = x0 + sigma.to(x0) * normal(x0, generator)
    base = check_estimate("guide", guide(x, sigma), x)
    inner = [] if middle is None else [check_estimate("middle", middle(x, sigma), x)]
    inner.append(check_estimate("main", main(x, sigma), x))
    fields = torch.stack([base, *inner]).flatten(2).double()  # (1 + d, B, D)
    steps, residual = fields.diff(dim=0), x0.flatten(1).double() - fields[0]  # (d, B, D), (B, D)
    gram = torch.einsum("ibd,jbd->bij", steps, steps).flatten(1)
    return torch.cat([gram, torch.einsum("ibd,bd->bi", steps, residual)], 1)


def _check_main(main, label):
    """Raise TypeError for a denoiser if data has labels, and for a function of labels if it has none."""
    try:
        inspect.signature(main).bind(*(["x", "sigma"] if label is None else ["label"]))
    except ValueError:  # a function that cannot say what it takes
        return
    except TypeError:
        came, expected = ("no labels", "D(x, sigma)") if label is None else ("labels", "label -> D")
        raise TypeError(f"main is {shown(main)} and data has {came}; expected {expected}") from None


def _batches(data, size):
    """(x0, label or None) pairs, arrays cut into pieces."""
    arrays = np.ndarray | torch.Tensor
    if isinstance(data, arrays):
        check_points(data=data)
    pair = isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[1], arrays)
    if torch.is_tensor(data) or (pair and not check_numbers("labels", data[1]).is_floating_point()):
        data = [data]
    if not isinstance(data, Iterable):
        raise TypeError(
            f"data is {shown(data)}; expected points, a pair (x0, label) or an iterable of either"
        )
    count = 0
    for k, item in enumerate(data):
        x0, *label = item if isinstance(item, (tuple, list)) and item else (item,)
        if len(label) > 1:
            raise ValueError(f"data holds {len(item)} things in item {k}; expected points, or also labels")
        label = check_numbers("labels of data", label[0]) if label else None
        check_points(data=x0)
        if x0.ndim < 2 or not x0.isfinite().all():
            came = "numbers that are not finite" if x0.ndim > 1 else f"points of shape {tuple(x0.shape)}"
            raise ValueError(f"data holds {came} in item {k}; expected finite points (N, *D)")
        if label is not None and len(label) != len(x0):
            raise ValueError(
                f"data holds {len(x0)} points with {len(label)} labels; expected one label per point"
            )
        count += len(x0)
        labels = itertools.repeat(None) if label is None else label.split(size)
        yield from zip(x0.split(size), labels)
    if not count:
        raise ValueError("data holds no points; expected held-out samples of the target")

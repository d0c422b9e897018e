"""The exact world: Gaussian mixtures whose density, score and denoiser are known at every noise level.

Adding noise of level sigma to a mixture gives a mixture again, component k becoming N(mu_k, Sigma_k + sigma^2
I). With Sigma_k = U_k diag(lambda_k) U_k^T nothing needs inverting: along axis e of component k, x lies z =
U_ke . (x - mu_k) from the mean, and the variance there is lambda_ke + sigma^2.
"""

import math

import torch
from torch import Tensor

from .checks import (
    check_generator,
    check_integers,
    check_number,
    check_numbers,
    check_points,
    check_shape,
    check_sigma,
    check_whole,
    followed,
    readable,
    traced,
)

BLOCK = {"cpu": 2**17}  # points x components held at once: a CPU's cache; 2^24 elsewhere
FLOOR = {torch.float32: -80, torch.float64: -600}  # exp is slow where what it gives, or a product, underflows


class GaussianMixture:
    """p(x) = sum_k weights_k N(x; means_k, covs_k), in any dimension.

    weights (K,), means (K, D), covs (K, D, D). Parameters are kept in float64 and evaluated in the precision
    of x, or in a higher one where squares of x would overflow. Raises TypeError for what holds no numbers,
    ValueError for shapes that do not agree, weights that are not positive or do not sum to 1, covariances
    that are not symmetric positive definite.
    """

    def __init__(self, weights, means, covs):
        given = dict(weights=weights, means=means, covs=covs)
        weights, means, covs = (check_numbers(name, value, device=None) for name, value in given.items())
        self.dtype = means.dtype if means.dtype.is_floating_point else torch.get_default_dtype()
        weights, means, covs = weights.double(), means.double(), covs.double()
        _check_parts(weights, means, covs)
        self.weights, self.means, self.covs = weights / weights.sum(), means, covs
        self.variances, self.axes = torch.linalg.eigh(covs)  # (K, D), (K, D, D): columns are the axes
        least, most = self.variances[:, 0], self.variances[:, -1]  # eigenvalues ascend
        turned = (covs.triu(1) != 0).any(-1).any(-1)  # those of a diagonal matrix are exact
        rounding = turned * covs.shape[-1] * torch.finfo(covs.dtype).eps * most
        if (least <= rounding).any():
            k = (least - rounding).argmin()
            raise ValueError(
                f"covs[{k}] is not positive definite: its eigenvalues are {least[k]:.3g} to {most[k]:.3g}"
            )

    def to(self, device):
        """A copy of this mixture on another device, as a tensor's `to` makes one."""
        moved = object.__new__(type(self))
        moved.__dict__ = {k: v.to(device) if torch.is_tensor(v) else v for k, v in self.__dict__.items()}
        return moved

    def logp(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """log p(x; sigma), the log density of the mixture blurred by noise sigma.  x (..., D) -> (...)"""
        parts = []
        for log_joint, _, scratch in self._blocks(*self._checked(x, sigma, zero=True)):
            top, p = _scaled(log_joint, scratch[0])
            parts.append(top[:, 0] + p.sum(-1).log())
        return _clamped(torch.cat(parts).reshape(x.shape[:-1]), x.dtype)

    def score(self, x: Tensor, sigma: float | Tensor = 0.0) -> Tensor:
        """grad_x log p(x; sigma) = sum_k r_k (Sigma_k + sigma^2 I)^-1 (mu_k - x).  x (..., D) -> (..., D)"""
        wide, level = self._checked(x, sigma, zero=True)
        return -_clamped(self._average(wide, level, self.axes), x.dtype)

    def denoise(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """The denoiser D(x, sigma) = E[x0 | x0 + sigma eps = x] = x + sigma^2 score(x, sigma).

        = sum_k r_k (mu_k + Sigma_k (Sigma_k + sigma^2 I)^-1 (x - mu_k)), which keeps its digits at a large
        sigma. x (..., D) -> (..., D)
        """
        wide, level = self._checked(x, sigma)
        pulled = self._average(wide, level, self.axes * self.variances[:, None], self.means)
        return _clamped(pulled, x.dtype)

    def log_responsibilities(self, x, sigma=0.0):
        """log p(component k | x; sigma), finite where p itself underflows to 0.  x (..., D) -> (..., K)"""
        blocks = self._blocks(*self._checked(x, sigma, zero=True))
        parts = [log_joint.log_softmax(-1) for log_joint, _, _ in blocks]
        return _clamped(torch.cat(parts).reshape(*x.shape[:-1], len(self.weights)), x.dtype)

    def responsibilities(self, x, sigma=0.0):
        """p(component k | x; sigma).  x (..., D) -> (..., K)"""
        return self.log_responsibilities(x, sigma).exp()

    def _checked(self, x, sigma, zero=False):
        """x (..., D) and sigma as tensors in the precision to compute in: x's own, a higher one if x is in
        half precision or so far out, or a component so narrow or so wide, that squares overflow.

        Raises ValueError for an x of another dimension or device, and for one that is too far out for any
        precision.
        """
        check_points(x=x)
        d = self.means.shape[1]
        if x.ndim < 1 or x.shape[-1] != d:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (..., {d})")
        if x.device != self.means.device:
            raise ValueError(f"x is on {x.device}; expected {self.means.device}, as the mixture")
        level = check_sigma(sigma, x, zero)
        wide = x.float() if x.dtype in (torch.half, torch.bfloat16) else x
        if x.numel() and readable(x) and readable(level):
            least, most = self.variances.min().sqrt(), self.variances.max().sqrt()
            lengths = x.abs().max().double(), self.means.abs().max(), level.max().double(), most
            reach = torch.stack(lengths).max()
            largest = (reach.clamp(min=1) / least.clamp(max=1)).item()  # no number to be squared is larger
            if 1e150 < largest < math.inf:
                raise ValueError(
                    f"x, sigma, means reach {reach:.3g}, the least std is {least:.3g};"
                    " expected no factor above 1e150 between these and 1"
                )
            if largest > 1e15:
                wide = x.double()
        return wide, level.to(wide.dtype)

    def _average(self, x, sigma, axes, means=None):
        """sum_k r_k (means_k + sum_e pull_ke axes_ke), r the responsibilities.  x (..., D) -> (..., D)"""
        axes, parts = _columns(axes, x), []
        for log_joint, pulls, scratch in self._blocks(x, sigma):
            _, p = _scaled(log_joint, scratch[0])
            along = (torch.mul(p, pull, out=scratch[1]) @ axis for pull, axis in zip(pulls, axes))
            total = sum(along)  # (N, D)
            if means is not None:
                total = p @ _columns(means[..., None], x)[0] + total
            parts.append(total / p.sum(-1, keepdim=True))
        return torch.cat(parts).reshape(x.shape)

    def _blocks(self, x, sigma):
        """What the functions above are made of, for each block of points.

        -> log weights_k N(x; mu_k, Sigma_k + sigma^2 I), (N, K); for each axis e the pull z / (lambda_ke +
        sigma^2), (N, K); two spare arrays (N, K), or None where a gradient is to be kept. z = U_ke . x - U_ke
        . mu_k is taken in double precision: in single, each power of ten of |x| / std costs a digit. All
        blocks use the same memory, because on a CPU fresh pages cost more than the arithmetic.
        """
        k, d = self.means.shape
        flat = x.reshape(-1, d)
        rows = max(1, min(BLOCK.get(x.device.type, 2**24) // k, len(flat)))
        blocks = flat.split(rows)
        levels = [sigma] * len(blocks)
        if sigma.ndim:
            levels = sigma.expand(x.shape[:-1] + (1,)).reshape(-1, 1).split(rows)
        wide, buffers = x.new_empty(rows, k, dtype=torch.float64), x.new_empty(d + 3, rows, k)
        given = (x, sigma, self.weights, self.means, self.axes)
        graph = any(map(followed, given)) or traced(x) or traced(sigma)

        axes = self.axes.permute(2, 1, 0).contiguous()  # (axis, D, K)
        offsets = -(axes * self.means.T).sum(1)  # (axis, K)
        log_weights, variances = self.weights.log().to(x.dtype), self.variances.T.to(x.dtype)
        for block, level in zip(blocks, levels):
            double, scratch = None, [None] * (d + 3)
            if not graph:
                double, scratch = wide[: len(block)], buffers[:, : len(block)]
            var = [variance + level**2 for variance in variances]  # (K,) each, or (N, K)
            log_joint = log_weights - 0.5 * sum((2 * math.pi * v).log() for v in var)
            pulls = []
            for e in range(d):
                z = torch.addmm(offsets[e], block.double(), axes[e], out=double)  # (N, K)
                z = z.to(x.dtype) if graph else scratch[-1].copy_(z)
                pulls.append(torch.mul(z, 1 / var[e], out=scratch[e]))
                log_joint = torch.addcmul(log_joint, z, pulls[e], value=-0.5, out=scratch[d])
            yield log_joint, pulls, scratch[-2:]

    def subset(self, keep):
        """p(x | the components with keep (K,)), a mixture of its own."""
        weights = self.weights[keep]
        part = GaussianMixture(weights / weights.sum(), self.means[keep], self.covs[keep])
        part.dtype = self.dtype
        return part

    def sample(self, n: int, sigma: float = 0.0, generator: torch.Generator | None = None) -> Tensor:
        """n points of the mixture, with noise of level sigma added.  -> (n, D), on the generator's device

        Raises ValueError for n or sigma below 0.
        """
        n = check_whole("n", n)
        if n < 0:
            raise ValueError(f"n is {n}; expected a number of samples >= 0")
        sigma = check_number("sigma", sigma, "[0, inf)")
        check_generator(generator)
        device = self.means.device if generator is None else generator.device
        draw = dict(generator=generator, device=device, dtype=self.dtype)
        x = self.to(device).from_noise(torch.rand(n, **draw), torch.randn(n, self.means.shape[1], **draw))
        return x + sigma * torch.randn(x.shape, **draw) if sigma else x

    def from_noise(self, u, z):
        """Points (..., D) as a function of uniforms u (...) and normals z (..., D): component, then place."""
        k = self._component(u)
        root = (self.axes * self.variances.sqrt()[:, None, :]).to(z.dtype)  # (K, D, D)
        return self.means.to(z.dtype)[k] + (root[k] @ z[..., None])[..., 0]

    def _component(self, u):
        edges = self.weights.cumsum(0).to(u.dtype)[:-1].contiguous()
        return torch.bucketize(u.contiguous(), edges, right=True)  # (...)


def _scaled(log_joint, scratch):
    """The largest entry (N, 1), and exp(log_joint - largest) (N, K), at least e^FLOOR."""
    top = log_joint.amax(-1, keepdim=True)
    below = torch.clamp(torch.sub(log_joint, top, out=scratch), min=FLOOR[log_joint.dtype], out=scratch)
    return top, torch.exp(below, out=scratch)


def _clamped(value, dtype):
    """value in a dtype, cut at its largest numbers: finite stays finite."""
    if value.dtype == dtype:
        return value
    limit = torch.finfo(dtype).max
    return value.clamp(-limit, limit).to(dtype)


def _columns(matrix, x):
    """A matrix (D, n) per component, as n tables (K, D) in x's precision, laid out for fast products."""
    return [column.to(x.dtype).contiguous().T for column in matrix.permute(2, 1, 0)]


class LabelledMixture(GaussianMixture):
    """A mixture whose components carry class labels (K,): the exact counterpart of a labelled network.

    `denoiser(label)` conditions on a class; `null` is the label that conditions on nothing. With it the exact
    world goes wherever a network goes.
    """

    def __init__(self, weights, means, covs, labels):
        super().__init__(weights, means, covs)
        self.labels = check_integers("labels", labels).to(self.weights.device, torch.long)
        if self.labels.shape != self.weights.shape:
            raise ValueError(
                f"labels has shape {tuple(self.labels.shape)}; "
                f"expected {tuple(self.weights.shape)}, one per component"
            )
        self.num_classes = self.null = int(self.labels.max()) + 1
        if not torch.equal(self.labels.unique(), torch.arange(self.null, device=self.labels.device)):
            raise ValueError(
                f"labels are {self.labels.unique().tolist()}; expected every class from 0 to {self.null - 1}"
            )

    def given(self, label):
        """p(x | class label) as a mixture of its own; the null label gives the marginal.

        Raises ValueError for a label that is none of this mixture's, or for several.
        """
        label = check_label(label, self.null)
        if label.ndim:
            raise ValueError(f"label has shape {tuple(label.shape)}; expected one label")
        return self if label == self.null else self.subset(self.labels == label)

    def denoiser(self, label):
        """D(x, sigma) of class `label`: an int, or one label per sample (B,).

        Raises ValueError for a label that is none of this mixture's.
        """
        label = check_label(label, self.null)
        if label.ndim == 0:
            return self.given(label).denoise
        parts = {c: self.given(c).denoise for c in label.unique().tolist()}

        def D(x, sigma):
            level = check_sigma(sigma, x)
            check_shape("label", label, x.shape[:-1], x)
            level = level.expand(*x.shape[:-1], 1)[..., 0]
            out = torch.empty_like(x)
            for c, part in parts.items():
                rows = label == c
                out[rows] = part(x[rows], level[rows])
            return out

        return D

    def draw(self, u, z):
        """Labelled points from uniforms u (...) and normals z (..., D).  -> x0 (..., D), label (...)"""
        return self.from_noise(u, z), self.labels[self._component(u)]


def check_label(label, null):
    """label as a tensor. Raises ValueError unless it holds integers in 0..null, null the model's own."""
    label = check_integers("label", label)
    bad = (label < 0) | (label > null)
    if bad.any():
        raise ValueError(
            f"label {int(label[bad].flatten()[0])} is out of range for {null} classes (null is {null})"
        )
    return label


def _check_parts(weights, means, covs):
    if means.ndim != 2 or 0 in means.shape:
        raise ValueError(f"means has shape {tuple(means.shape)}; expected (K, D)")
    k, d = means.shape  # K components in D dimensions
    for name, value, shape in (
        ("weights", weights, (k,)),
        ("means", means, (k, d)),
        ("covs", covs, (k, d, d)),
    ):
        if value.shape != shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {shape} for means {(k, d)}")
        if not value.isfinite().all():
            raise ValueError(f"{name} holds a value that is not finite")
    if weights.min() <= 0 or abs(weights.sum() - 1) > 1e-4:
        raise ValueError(
            f"weights sum to {weights.sum():g} with minimum {weights.min():g}; "
            "expected positive weights that sum to 1"
        )
    skew = (covs - covs.mT).abs().amax((1, 2))
    if (skew > 1e-5 * covs.abs().amax((1, 2))).any():
        raise ValueError(f"covs[{int(skew.argmax())}] is not symmetric: entries differ by {skew.max():.3g}")

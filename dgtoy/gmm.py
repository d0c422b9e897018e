"""The exact world: Gaussian mixtures whose density, score and denoiser are known at every noise level.

Adding noise of level sigma to a mixture gives a mixture again, component k becoming N(mu_k, Sigma_k + sigma^2 I).
With Sigma_k = U diag(lambda) U^T nothing needs inverting: every quantity below is a matrix product.
"""

import math

import torch

from .schedules import checked

BLOCK = {"cpu": 2**20, "cuda": 2**26}  # points x components held at once; on a CPU, its cache


class GaussianMixture:
    """p(x) = sum_k weights_k N(x; means_k, covs_k), in any dimension.

    weights (K,), means (K, D), covs (K, D, D). Parameters are kept in float64 and evaluated in the precision of x.
    Raises ValueError for shapes that do not agree, weights that are not a distribution, covariances that are not
    symmetric positive definite.
    """

    def __init__(self, weights, means, covs):
        weights, means, covs = (torch.as_tensor(a) for a in (weights, means, covs))
        self.dtype = means.dtype if means.dtype.is_floating_point else torch.get_default_dtype()
        _check_shapes(weights, means, covs)
        weights, means, covs = weights.double(), means.double(), covs.double()
        _check_values(weights, means, covs)
        self.weights, self.means, self.covs = weights / weights.sum(), means, covs
        self.variances, self.axes = torch.linalg.eigh(covs)  # (K, D), (K, D, D): columns are the axes
        if self.variances.min() <= 0:
            k = int(self.variances.min(-1).values.argmin())
            raise ValueError(
                f"covs[{k}] is not positive definite: its smallest eigenvalue is {self.variances[k].min():.3g}"
            )

    def to(self, device):
        """A copy of this mixture on another device, as a tensor's `to` makes one."""
        moved = object.__new__(type(self))
        moved.__dict__ = {k: v.to(device) if torch.is_tensor(v) else v for k, v in self.__dict__.items()}
        return moved

    def logp(self, x, sigma=0.0):
        """log p(x; sigma), the log density of the mixture blurred by noise of level sigma.  x (..., D) -> (...)"""
        return self._evaluate("logp", x, checked(sigma, x, zero=True))

    def score(self, x, sigma=0.0):
        """grad_x log p(x; sigma) = sum_k r_k (Sigma_k + sigma^2 I)^-1 (mu_k - x).  x (..., D) -> (..., D)"""
        return self._evaluate("score", x, checked(sigma, x, zero=True))

    def denoise(self, x, sigma):
        """E[x0 | x0 + sigma eps = x] = x + sigma^2 score(x, sigma): the denoiser D(x, sigma).  x (..., D) -> (..., D)"""
        return self._evaluate("denoise", x, checked(sigma, x))

    def log_responsibilities(self, x, sigma=0.0):
        """log p(component k | x; sigma), finite where the probability itself is 0 in floating point.  x (..., D) -> (..., K)"""
        return self._evaluate("log_responsibilities", x, checked(sigma, x, zero=True))

    def responsibilities(self, x, sigma=0.0):
        """p(component k | x; sigma).  x (..., D) -> (..., K)"""
        return self.log_responsibilities(x, sigma).exp()

    def sample(self, n, sigma=0.0, generator=None):
        """n points of the mixture, with noise of level sigma added.  -> (n, D), on the generator's device"""
        if n < 0:
            raise ValueError(f"n is {n}; expected a number of samples >= 0")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"sigma is {sigma}; expected a finite value >= 0")
        device = generator.device if generator is not None else self.means.device
        draw = dict(generator=generator, device=device, dtype=self.dtype)
        x = self.to(device).from_noise(torch.rand(n, **draw), torch.randn(n, self.means.shape[1], **draw))
        return x + sigma * torch.randn(x.shape, **draw) if sigma else x

    def from_noise(self, u, z):
        """Points as a deterministic map of uniforms u (...) and normals z (..., D): component by u, place by z.  -> (..., D)"""
        k = self._component(u)
        root = (self.axes * self.variances.sqrt()[:, None, :]).to(z.dtype)  # (K, D, D)
        return self.means.to(z.dtype)[k] + (root[k] @ z[..., None])[..., 0]

    def _component(self, u):
        return torch.bucketize(
            u.contiguous(), self.weights.cumsum(0).to(u.dtype)[:-1].contiguous(), right=True
        )  # (...)

    def _evaluate(self, what, x, sigma):
        """logp, score, denoise or log_responsibilities of all points, block by block."""
        k, d = self.means.shape
        if x.ndim < 1 or x.shape[-1] != d:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (..., {d})")
        flat = x.reshape(-1, d)
        rows = max(1, min(BLOCK[x.device.type] // k, len(flat)))
        blocks = flat.split(rows)
        if sigma.ndim:
            levels = sigma.expand(x.shape[:-1] + (1,)).reshape(-1, 1).split(rows)  # (N, 1) each
            parts = [self._each(what, b, s) for b, s in zip(blocks, levels)]
        else:
            parts = self._shared(what, blocks, sigma.double(), rows)
        out = torch.cat(parts)
        return out.reshape(x.shape[:-1] + out.shape[1:])

    def _shared(self, what, blocks, sigma, rows):
        """One level for all points: whitened once, then every coordinate of x - mu_k is one matrix product.

        Expanding the squared distance instead (x^2 - 2 x mu + mu^2) would save a product, and lose every digit once
        |x| / sigma reaches 1,000 in float32.
        """
        x = blocks[0]
        var = self.variances + sigma**2  # (K, D)
        axes = self.axes / var.sqrt()[:, None, :]  # (K, D, D)
        offset = -(self.means[:, None, :] @ axes)[:, 0].to(x.dtype)  # (K, D)
        norm = (self.weights.log() - 0.5 * (2 * math.pi * var).log().sum(-1)).to(x.dtype)
        axes, table = (
            axes.permute(2, 1, 0).to(x.dtype).contiguous(),
            self._table(what, var).to(x.dtype),
        )  # axes (D, D, K)
        # one workspace for all blocks: fresh pages for each would cost more than the arithmetic
        a, b = (None, None) if x.requires_grad else x.new_empty(2, rows, len(var))
        parts = []
        for x in blocks:
            logits, room, room_z = (norm, None, None) if a is None else (norm, a[: len(x)], b[: len(x)])
            for d in range(x.shape[1]):
                z = torch.addmm(offset[:, d], x, axes[d], out=room_z)  # (N, K)
                logits = torch.addcmul(logits, z, z, value=-0.5, out=room)
            if what == "logp":
                parts.append(logits.logsumexp(-1))
            elif what == "log_responsibilities":
                parts.append(logits.log_softmax(-1))
            else:
                mean = torch.softmax(logits, -1, out=room_z) @ table  # (N, D + D^2)
                n, d = x.shape
                parts.append(mean[:, :d] + (mean[:, d:].reshape(n, d, d) @ x[..., None])[..., 0])
        return parts

    def _table(self, what, var):
        """Per component the affine map A_k x + b_k that is its score or denoiser, flattened as (b_k, A_k).  (K, D + D^2)"""
        gain = self.variances / var if what == "denoise" else -1 / var  # (K, D)
        matrix = self.axes * gain[:, None, :] @ self.axes.mT  # (K, D, D)
        shift = (matrix @ self.means[..., None])[..., 0]  # (K, D)
        table = torch.cat([self.means - shift if what == "denoise" else -shift, matrix.flatten(1)], 1)
        return table.T.contiguous().T  # this memory order is 1.5 times as fast on a CPU

    def _each(self, what, x, sigma):
        """A level for each point, sigma (N, 1): the same quantities without whitening."""
        means, axes, variances = (p.to(x.dtype) for p in (self.means, self.axes, self.variances))
        offset = -(self.means[:, None, :] @ self.axes)[:, 0].to(x.dtype)  # (K, D)
        logits, coords, var = self.weights.log().to(x.dtype), [], variances + sigma[..., None] ** 2
        for d in range(x.shape[1]):
            z = torch.addmm(offset[:, d], x, axes[:, :, d].T)  # (N, K)
            logits = logits - 0.5 * (z**2 / var[..., d] + (2 * math.pi * var[..., d]).log())
            coords.append(z)
        if what in ("logp", "log_responsibilities"):
            return logits.logsumexp(-1) if what == "logp" else logits.log_softmax(-1)
        r = logits.softmax(-1)  # (N, K)
        out = r @ means if what == "denoise" else 0
        for d, z in enumerate(coords):
            gain = (variances[:, d] if what == "denoise" else -1) / var[..., d]  # (N, K)
            out = out + (r * z * gain) @ axes[:, :, d]
        return out


def _check_shapes(weights, means, covs):
    if means.ndim != 2 or 0 in means.shape:
        raise ValueError(f"means has shape {tuple(means.shape)}; expected (K, D)")
    k, d = means.shape
    if tuple(weights.shape) != (k,):
        raise ValueError(f"weights has shape {tuple(weights.shape)}; expected ({k},), one a row of means")
    if tuple(covs.shape) != (k, d, d):
        raise ValueError(f"covs has shape {tuple(covs.shape)}; expected ({k}, {d}, {d})")


def _check_values(weights, means, covs):
    for name, value in (("weights", weights), ("means", means), ("covs", covs)):
        if not value.isfinite().all():
            raise ValueError(f"{name} holds a value that is not finite")
    if weights.min() <= 0 or abs(weights.sum() - 1) > 1e-4:
        raise ValueError(
            f"weights sum to {weights.sum():g} with minimum {weights.min():g}; expected positive weights that sum to 1"
        )
    skew = (covs - covs.mT).abs().amax((1, 2))
    if (skew > 1e-5 * covs.abs().amax((1, 2))).any():
        raise ValueError(f"covs[{int(skew.argmax())}] is not symmetric: entries differ by {skew.max():.3g}")

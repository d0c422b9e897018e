"""Class labels on the exact world, and what a label may be."""

import torch

from .gmm import GaussianMixture


class LabelledMixture(GaussianMixture):
    """A mixture whose components carry class labels (K,): the exact counterpart of a labelled network.

    `denoiser(label)` conditions on a class; `null` is the label that conditions on nothing. With it the exact world
    goes wherever a network goes.
    """

    def __init__(self, weights, means, covs, labels):
        super().__init__(weights, means, covs)
        self.labels = torch.as_tensor(labels).long()
        if self.labels.shape != self.weights.shape:
            raise ValueError(
                f"labels has shape {tuple(self.labels.shape)}; expected {tuple(self.weights.shape)}, one a component"
            )
        self.num_classes = self.null = int(self.labels.max()) + 1
        if not torch.equal(self.labels.unique(), torch.arange(self.null, device=self.labels.device)):
            raise ValueError(
                f"labels are {self.labels.unique().tolist()}; expected every class from 0 to {self.null - 1}"
            )

    def given(self, label):
        """p(x | class label) as a mixture of its own; the null label gives the marginal."""
        if label == self.null:
            return self
        keep = self.labels == check_label(label, self.null)
        w = self.weights[keep]
        part = GaussianMixture(w / w.sum(), self.means[keep], self.covs[keep])
        part.dtype = self.dtype
        return part

    def denoiser(self, label):
        """D(x, sigma) of class `label`: an int, or one label a sample (B,)."""
        label = check_label(label, self.null)
        if not torch.is_tensor(label) or label.ndim == 0:
            return self.given(int(label)).denoise
        parts = {c: self.given(c).denoise for c in label.unique().tolist()}

        def D(x, sigma):
            if label.shape != x.shape[:-1]:
                raise ValueError(
                    f"label has shape {tuple(label.shape)}; expected {tuple(x.shape[:-1])} for x {tuple(x.shape)}"
                )
            out = torch.empty_like(x)
            for c, part in parts.items():
                rows = label == c
                s = sigma[rows] if torch.is_tensor(sigma) and sigma.ndim else sigma
                out[rows] = part(x[rows], s)
            return out

        return D

    def draw(self, u, z):
        """Labelled points from uniforms u (...) and normals z (..., D).  -> x0 (..., D), label (...)"""
        return self.from_noise(u, z), self.labels[self._component(u)]


def check_label(label, null):
    """label unchanged if every entry is an integer in 0..null, null being the model's own null label; else ValueError."""
    values = torch.as_tensor(label)
    if values.dtype.is_floating_point or values.dtype == torch.bool:
        raise ValueError(f"label has dtype {values.dtype}; expected integers")
    bad = (values < 0) | (values > null)
    if bad.any():
        raise ValueError(
            f"label {int(values[bad].flatten()[0])} is out of range for {null} classes (null is {null})"
        )
    return label

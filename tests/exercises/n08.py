"""Wrong answers to the exercises of notebook 08, and the words of the hint each must meet."""

import torch

from dgtoy import GaussianMixture


def bell(moments, use=lambda m, x, s: m.denoise(x, s)):
    def D(mixture, x, sigma):
        mean, cov = moments(mixture.weights, mixture.means, mixture.covs)
        return use(GaussianMixture([1.0], mean[None], cov[None]), x, sigma)

    return D


def right(p, mu, cov):
    mean = p @ mu
    return mean, torch.einsum("k,kij->ij", p, cov) + torch.cov(mu.T, aweights=p, correction=0)


def without_spread(p, mu, cov):
    return p @ mu, torch.einsum("k,kij->ij", p, cov)


def between_alone(p, mu, cov):
    return p @ mu, torch.cov(mu.T, aweights=p, correction=0)


def made_round(p, mu, cov):
    mean, whole = right(p, mu, cov)
    return mean, whole.trace() / 2 * torch.eye(2, dtype=whole.dtype)


def about_zero(p, mu, cov):
    return p @ mu, torch.einsum("k,kij->ij", p, cov + mu[:, :, None] * mu[:, None, :])


def at_zero(p, mu, cov):
    return 0 * mu[0], right(p, mu, cov)[1]


def unweighted(p, mu, cov):
    return mu.mean(0), cov.mean(0) + torch.cov(mu.T, correction=0)


def along_the_axes(p, mu, cov):
    mean, whole = right(p, mu, cov)
    return mean, torch.diag(whole.diagonal())


WRONG = {
    "how_far": [
        (12.35, "the mean itself reaches the edge"),
        (5.577, "far side alone"),
        (3.386, "widths of the source"),
        (13.55, "widths of the target"),
        (5.152, "edge of the source"),
        (1.413, "w - 1 for the overshoot"),
        (0.7063, "the overshoot itself"),
        (1.196, "that protects"),
        (10.96, "not w"),
        (7.486, "weight of 2"),
        (1.288, "the target's own edge"),
        (6.44, "edges of source and target touch"),
    ],
    "only_breadth": [
        (bell(without_spread), "spread of the components' means is missing"),
        (bell(between_alone), "spread within the components"),
        (bell(made_round), "you made it round"),
        (bell(about_zero), "about 0"),
        (bell(at_zero), "mean of its own"),
        (bell(unweighted), "weigh them"),
        (bell(along_the_axes), "off the diagonal"),
        (bell(right, lambda m, x, s: m.denoise(x, s**0.5)), "adds sigma"),
        (bell(right, lambda m, x, s: m.score(x, s)), "that is the score"),
        (lambda mixture, x, sigma: mixture.denoise(x, sigma), "knows every component"),
        (
            bell(right)(
                GaussianMixture([1.0], torch.zeros(1, 2), torch.eye(2)[None]), torch.zeros(1, 2), 1.0
            ),
            "expected a function",
        ),
    ],
    "control": [
        ("a", "one measure only"),
        ("c", "lowered the energy distance"),
        ("d", "round Gaussian"),
        ("all", "none of the options"),
    ],
    "rescue": [
        (0.0049, "closed form promises"),
        (0.98, "at all levels"),
        (1.0, "swapped"),
        (0.0, "if the guide is a Gaussian"),
        (0.0145, "above sigma = 2 instead"),
        (0.25, "stays inside"),
        (75.0, "percentage"),
    ],
}

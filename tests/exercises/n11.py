"""Wrong answers to the exercises of notebook 11, and the words of the hint each must meet."""

import torch


def centred(x):
    return x - x.mean(0)


def slope(x, x0_hat):
    return (centred(x) * centred(x0_hat)).sum(0) / centred(x).square().sum(0)


def factor(b, w=1.5):
    return (1.6 / (1.6**2 + b**2) ** 0.5) ** (w - 1)


WRONG = {
    "half_done": [
        (0.64, "sigma^2"),
        (1.16, "mean of the two widths"),
        (2.0, "of the variance"),
        ((1.2432 / 0.6636) ** 0.5, "change of the std"),
        ((1.4976 / 0.6) ** 0.5, "a quarter"),
        (0.32, "target's width"),
        (8, "too large in size by a factor of 10"),
    ],
    "slope": [
        (lambda x, x0_hat: (x * x0_hat).sum(0) / x.square().sum(0), "taken off"),
        (
            lambda x, x0_hat: (centred(x) * centred(x0_hat)).mean(0) / x.std(0, False) / x0_hat.std(0, False),
            "correlation",
        ),
        (lambda x, x0_hat: (centred(x) * centred(x0_hat)).mean(0) / x.var(0), "n - 1"),
        (lambda x, x0_hat: slope(x0_hat, x), "is that of x"),
        (
            lambda x, x0_hat: torch.linalg.lstsq(centred(x), centred(x0_hat)).solution.diagonal(),
            "all directions at once",
        ),
        (lambda x, x0_hat: (x0_hat / x).mean(0), "average of ratios"),
        (lambda x, x0_hat: x0_hat.std(0) / x.std(0), "ratio of stds"),
        (lambda x, x0_hat: 1 - slope(x, x0_hat), "1 - beta"),
        (lambda x, x0_hat: (centred(x) * centred(x0_hat)).mean(0), "divided by a variance"),
        (lambda x, x0_hat: slope(x, x0_hat).mean().expand(3), "one slope for each"),
        (lambda x, x0_hat: slope(x, x0_hat).mean(), "you averaged over all of them"),
        (0.3, "expected a function"),
    ],
    "perfect": [
        ("a", "still differ"),
        ("c", "nothing is left"),
        ("d", "step away from it"),
        ("1.5", "none of the options"),
    ],
    "one_blur": [
        ((1.6 / 2) ** 0.5, "what DoG does"),
        (factor(2.0), "a width already"),
        (1 / factor(3**0.5), "the reciprocal"),
        (factor(1.0), "add in squares"),
        (1.6 * factor(3**0.5), "the factor was asked"),
        (factor(3**0.5, 2.5), "power is w - 1"),
        (factor(3**0.5) ** 2, "variances"),
        (0.5**0.5, "first direction"),
        (3**0.5, "that is the blur"),
    ],
}

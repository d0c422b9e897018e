"""Wrong answers to the exercises of notebook 02, and the words of the hint each must meet."""


def tau(high, low, eta):
    return eta * low * (1 - (low / high) ** 2).sqrt()


def euler_keeps(x, d, high, low, eta, eps):
    return d + low / high * (x - d) + tau(high, low, eta) * eps


def ancestral_keeps(x, d, high, low, eta, eps):
    return d + (low / high) ** 2 * (x - d) + tau(high, low, eta) * eps


def subtracts(x, d, high, low, eta, eps):
    return d + (low - tau(high, low, eta)) / high * (x - d) + tau(high, low, eta) * eps


def mixes(x, d, high, low, eta, eps):
    euler = x + (low - high) * (x - d) / high
    ancestral = d + (low / high) ** 2 * (x - d) + tau(high, low, 1.0) * eps
    return (1 - eta) * euler + eta * ancestral


def forgets_the_root(x, d, high, low, eta, eps):
    return d + (low**2 - tau(high, low, eta) ** 2) / high**2 * (x - d) + tau(high, low, eta) * eps


def forgets_the_level(x, d, high, low, eta, eps):
    return d + (low**2 - tau(high, low, eta) ** 2).sqrt() * (x - d) + tau(high, low, eta) * eps


def forgets_eta(x, d, high, low, eta, eps):
    return ancestral_keeps(x, d, high, low, 1.0, eps)


def squares(x, d, high, low, eta, eps):
    return d + (low**2 - tau(high, low, eta) ** 2).sqrt() / high * (x - d) + tau(high, low, eta) ** 2 * eps


def keeps_too_much(x, d, high, low, eta, eps):
    return d + (high**2 - tau(high, low, eta) ** 2).sqrt() / high * (x - d) + tau(high, low, eta) * eps


def starts_from_x(x, d, high, low, eta, eps):
    return forgets_the_noise(x, d, high, low, eta, eps) - d + x + tau(high, low, eta) * eps


def forgets_the_square_of_eta(x, x0_hat, high, low, eta, eps):
    keep = (1 - eta * (1 - (low / high) ** 2)).sqrt() * low / high
    return x0_hat + keep * (x - x0_hat) + eta * low * (1 - (low / high) ** 2).sqrt() * eps


def forgets_the_noise(x, d, high, low, eta, eps):
    return d + (low**2 - tau(high, low, eta) ** 2).sqrt() / high * (x - d)


WRONG = {
    "low_start": [
        (0.30, "share among the data"),
        (0.842, "end below 2"),
        (0.212, "the noise that starts above 2"),
        (0.076, "asked the denoiser once"),
        (0.223, "wrong width as well"),
        (0.239, "wrong centre as well"),
        (0.358, "share of noisy data above 2"),
    ],
    "eta_step": [
        (euler_keeps, "more than sigma'"),
        (ancestral_keeps, "less than sigma'"),
        (subtracts, "variances add"),
        (mixes, "mean of the two steps"),
        (forgets_the_root, "square root is missing"),
        (forgets_the_level, "size sigma, not 1"),
        (forgets_eta, "does not depend on eta"),
        (squares, "multiplied by tau^2"),
        (forgets_the_square_of_eta, "so does eta in it"),
        (forgets_the_noise, "new noise is missing"),
        (keeps_too_much, "not high^2 - tau^2"),
        (starts_from_x, "yours starts from x"),
        (1.0, "expected a function"),
    ],
    "diagnosis": [
        ("a", "as deterministic"),
        ("b", "long been inside"),
        ("d", "small part of its width"),
        ("40", "none of the options"),
        ("a)", "as deterministic"),
    ],
    "sharpened": [
        (0.5 / 1.5**0.5, "width of p^k"),
        (0.5, "width of the clump"),
        (0.5 / 1.5, "not s / k"),
        (0.0559**2, "that is the variance"),
        (0.5**1.5, "where the path starts"),
        (0.01768, "a start at 400"),
        (4.47, "k - 1"),
        (2.15, "1/k"),
    ],
}

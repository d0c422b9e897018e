"""Wrong answers to the exercises of notebook 05, and the words of the hint each must meet."""


def parts(x0, x, sigma, sigma_d):
    """The first term of D, and the factor in front of F."""
    s2, d2 = sigma[:, None] ** 2, sigma_d**2
    return d2 / (s2 + d2) * x, (s2 * d2 / (s2 + d2)) ** 0.5


def no_first_term(x0, x, sigma, sigma_d):
    return x0 / parts(x0, x, sigma, sigma_d)[1]


def share_of_the_noise(x0, x, sigma, sigma_d):
    return (x0 - x + parts(x0, x, sigma, sigma_d)[0]) / parts(x0, x, sigma, sigma_d)[1]


def rooted(x0, x, sigma, sigma_d):
    return (x0 - sigma_d / (sigma[:, None] ** 2 + sigma_d**2) ** 0.5 * x) / parts(x0, x, sigma, sigma_d)[1]


def all_of_x(x0, x, sigma, sigma_d):
    return (x0 - x) / parts(x0, x, sigma, sigma_d)[1]


def multiplied(x0, x, sigma, sigma_d):
    return (x0 - parts(x0, x, sigma, sigma_d)[0]) * parts(x0, x, sigma, sigma_d)[1]


def no_root(x0, x, sigma, sigma_d):
    return (
        (x0 - parts(x0, x, sigma, sigma_d)[0])
        * (sigma[:, None] ** 2 + sigma_d**2)
        / (sigma[:, None] * sigma_d)
    )


def squared(x0, x, sigma, sigma_d):
    return (x0 - parts(x0, x, sigma, sigma_d)[0]) / parts(x0, x, sigma, sigma_d)[1] ** 2


def not_divided(x0, x, sigma, sigma_d):
    return x0 - parts(x0, x, sigma, sigma_d)[0]


def by_sigma(x0, x, sigma, sigma_d):
    return (x0 - parts(x0, x, sigma, sigma_d)[0]) / sigma[:, None]


def negative(x0, x, sigma, sigma_d):
    return -(x0 - parts(x0, x, sigma, sigma_d)[0]) / parts(x0, x, sigma, sigma_d)[1]


def noise(x0, x, sigma, sigma_d):
    return (x - x0) / sigma[:, None]


def not_scaled(average, start, t, beta):
    return average - beta**t * start


def only_scaled(average, start, t, beta):
    return average / (1 - beta**t)


def all_of_the_start(average, start, t, beta):
    return (average - start) / (1 - beta**t)


def mixed_in(average, start, t, beta):
    return (average + beta**t * start) / (1 + beta**t)


def one_step(average, start, t, beta):
    return (average - beta * start) / (1 - beta)


def to_first_order(average, start, t, beta):
    return average + beta**t * (average - start)


def unchanged(average, start, t, beta):
    return average


WRONG = {
    "task": [
        (no_first_term, "first term of D is missing"),
        (share_of_the_noise, "share of the noise"),
        (rooted, "yours has standard deviations"),
        (all_of_x, "the whole of x"),
        (multiplied, "you multiplied"),
        (no_root, "square root below"),
        (squared, "the square of the factor"),
        (not_divided, "not yet divided"),
        (by_sigma, "you divided by sigma"),
        (negative, "wrong sign"),
        (noise, "that is the noise"),
        (lambda x0, x, sigma, sigma_d: -noise(x0, x, sigma, sigma_d), "minus the noise"),
        (lambda x0, x, sigma, sigma_d: x0, "what D should answer"),
        (1.0, "expected a function"),
    ],
    "lag": [
        (1.5, "0.5% is asked"),
        (0.3679, "still counts"),
        (0.6321, "how far the average has come"),
        (2.718, "divide by how far"),
        (1.368, "multiplies the way"),
        (0.582, "off at w = 1"),
        (1, "leaves it there"),
        (1.0998, "24,000 steps"),
        (1.00005, "leaves it there"),
    ],
    "handed_on": [
        ("a", "remembers its points"),
        ("B", "1 in these units"),
        ("c", "no weight"),
        ("1.4", "none of the options"),
    ],
    "without_start": [
        (not_scaled, "do not add up to 1"),
        (only_scaled, "has to be subtracted"),
        (all_of_the_start, "you subtracted all of it"),
        (mixed_in, "mixed more of the start in"),
        (one_step, "after t steps"),
        (to_first_order, "first order"),
        (unchanged, "still in it"),
    ],
}

"""Wrong answers to the exercises of notebook 03, and the words of the hint each must meet."""

V = 1 / (-1 / 9 + 2 / 0.09)  # the variance of the tilted density at w = 2


def right(sigma):
    return (1 / (V + sigma**2) - 1 / (9 + sigma**2)) / (1 / (0.09 + sigma**2) - 1 / (9 + sigma**2))


WRONG = {
    "same_width": [
        (2, "the weight for all levels"),
        (2.869, "at w = 1 guidance is off"),
        (1.697, "the weight must grow"),
        (0.697, "share of the narrowing"),
        (1.4348, "off by one"),
        (2.2957, "the floor of the interval is missing"),
        (2.081, "the ceiling of the interval is missing"),
        (3.392, "you add sigma"),
    ],
    "exactly": [
        ("a", "harmonic and geometric"),
        ("b", "a perfect solver"),
        ("C", "order of the two"),
        ("equal", "none of the options"),
    ],
    "weight": [
        (lambda sigma: 2 * sigma**0, "narrows the samples too much"),
        (lambda sigma: 2.0, "narrows the samples too much"),
        (lambda sigma: sigma**0, "no guidance at all"),
        (
            lambda sigma: (1 / V - 1 / (9 + sigma**2)) / (1 / (0.09 + sigma**2) - 1 / (9 + sigma**2)),
            "tilted density has to be blurred",
        ),
        (
            lambda sigma: (
                (1 / (0.03**2 + sigma**2) - 1 / (9 + sigma**2)) / (1 / (0.09 + sigma**2) - 1 / (9 + sigma**2))
            ),
            "you took the geometric one",
        ),
        (lambda sigma: (1 / (V + sigma**2) - 1 / 9) / (1 / 0.09 - 1 / 9), "two models have to be blurred"),
        (
            lambda sigma: (
                ((V + sigma**2) ** -0.5 - (9 + sigma**2) ** -0.5)
                / ((0.09 + sigma**2) ** -0.5 - (9 + sigma**2) ** -0.5)
            ),
            "yours has the standard deviation",
        ),
        (lambda sigma: (V - 9) / (0.09 - 9) * sigma**0, "you mixed the variances"),
        (
            lambda sigma: (1 / (V + sigma) - 1 / (9 + sigma)) / (1 / (0.09 + sigma) - 1 / (9 + sigma)),
            "you add sigma",
        ),
        (lambda sigma: 1 - right(sigma), "weight of the guide"),
        (lambda sigma: right(sigma) - 1, "off by one"),
        (lambda sigma: 1 / right(sigma), "wrong way round"),
        (lambda sigma: 1 / (V + sigma**2) - 1 / (9 + sigma**2), "step from guide to main model is missing"),
        (2.0, "expected a function"),
    ],
}

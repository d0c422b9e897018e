"""Wrong answers to the exercises of notebook 07, and the words of the hint each must meet."""

import math


def ray(
    direction=lambda pre, null, main, u, v: u * (null - pre) + v * (main - null),
    start=lambda pre, main: main,
    share=lambda r, d: (r * d).sum() / (d * d).sum(),
):
    return lambda pre, null, main, x0, u, v: share(x0 - start(pre, main), direction(pre, null, main, u, v))


domain, label = math.log(2 / 0.8), math.log(0.8 / 0.5)
WRONG = {
    "equal_width": [
        (1 + 0.2 * domain / label, "one has to be shortened"),
        (1 - 0.2 * label / domain, "other way round"),
        (0.2 * domain / label, "by how much b changes"),
        (-0.2 * domain / label, "as wide as the domain"),
        (1 - 0.2 * 1.2 / 0.3, "not by a difference"),
        (1 - 0.2 * 2.5 / 1.6, "logarithms that add up"),
        (1 - 0.2 * domain / math.log(4), "starts at the domain"),
        (1 - 1.2 * domain / label, "took a for what is added"),
        (0.8, "not equal here"),
    ],
    "ray": [
        (lambda *args: 1 + ray()(*args), "too large by 1"),
        (ray(start=lambda pre, main: pre), "which is not the pre-trained model"),
        (
            lambda pre, null, main, x0, u, v: ray(start=lambda *_: null)(pre, null, main, x0, u, v),
            "D_c and not D_null",
        ),
        (ray(lambda pre, null, main, u, v: main - pre), "that is DoG's direction"),
        (ray(share=lambda r, d: r.norm() / d.norm()), "ratio of lengths"),
        (ray(lambda pre, null, main, u, v: v * (null - pre) + u * (main - null)), "swapped"),
        (ray(lambda pre, null, main, u, v: u * (null - pre) + v * (main - pre)), "starts at D_null"),
        (lambda *args: -ray()(*args), "backwards"),
        (ray(share=lambda r, d: ((r * d).sum(-1) / (d * d).sum(-1)).mean()), "ratio of two averages"),
        (ray(share=lambda r, d: (r * d).sum() / d.norm()), "divides by its square"),
        (ray(share=lambda r, d: (r * d).sum()), "did not divide"),
        (ray(share=lambda r, d: (r * d).sum(-1).mean()), "not yet divided"),
        (ray(share=lambda r, d: (r * d).sum() / (r * r).sum()), "square of what is left"),
        (ray(share=lambda r, d: (r * d).sum(0) / (d * d).sum(0)), "returns shape"),
        (1.0, "expected a function"),
    ],
    "reading": [
        ("a", "does not complete"),
        ("b", "third call"),
        ("d", "sharpens a finished model"),
        ("plane", "none of the options"),
    ],
    "parrot": [
        (1.0, "never seen"),
        (0.235, "swapped"),
        (1.307, "one over the weight"),
        (0.31, "half the level"),
        (0.918, "variance 0.01"),
    ],
}

"""Wrong answers to the exercises of notebook 12, and the words of the hint each must meet."""

import torch


def split(main, guide, x, c):
    return torch.cat([guide(x[:2], c[:2]), main(x[2:], c[2:])])


WRONG = {
    "price": [
        (20, "calls of the guide"),
        (100, "in every step"),
        (40, "outside the interval; the fine-tuned"),
        (50, "without any guidance"),
        (30, "the interval saves"),
        (80, "other way round"),
        (-70, "of the wrong sign"),
    ],
    "halves": [
        (lambda m, p, x, c: split(p, m, x, c), "swapped"),
        (lambda m, p, x, c: m(x, c), "classifier-free"),
        (lambda m, p, x, c: p(x, c), "both halves go to the guide"),
        (lambda m, p, x, c: torch.cat([m(x[2:], c[2:]), p(x[:2], c[:2])]), "wrong order"),
        (lambda m, p, x, c: torch.cat([p(x[::2], c[::2]), m(x[1::2], c[1::2])]), "every second row"),
        (lambda m, p, x, c: torch.cat([p(x[:2], c[:2]), m(x[2:], c[:2])]), "the first part"),
        (lambda m, p, x, c: torch.cat([p(x[:2], c[2:]), m(x[2:], c[2:])]), "the last part"),
        (1.5, "expected a function"),
    ],
    "copies": [
        ("a", "more steps"),
        ("b", "has not lost"),
        ("d", "narrows further"),
        ("w", "none of the options"),
    ],
}

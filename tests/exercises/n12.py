"""Wrong answers to the exercises of notebook 12, and the words of the hint each must meet."""

import torch


def split(main, guide, x, c):
    return torch.cat([guide(x[:2], c[:2]), main(x[2:], c[2:])])


AXES = (1, 2, 3)


def about_its_mean(main, guided, phi):
    mean = guided.mean(AXES, keepdim=True)
    return phi * mean + phi * mixed(main, guided - mean, 1.0) + (1 - phi) * guided


def mixed(main, guided, phi, axes=AXES, keep=None):
    """Rescaled over these axes, mixed with `keep`, by default the guided estimate."""
    spread = lambda x: x.std(axes, keepdim=True) if axes else x.std()
    scaled = guided * spread(main) / spread(guided)
    return phi * scaled + (1 - phi) * (guided if keep is None else keep)


WRONG = {
    "price": [
        (90, "the base in every step"),
        (36, "calls inside the interval"),
        (42, "one-weight form"),
        (60, "the base is asked in some"),
        (30, "without any guidance"),
        (54, "goes on: two calls"),
        (78, "other way round"),
        (-72, "of the wrong sign"),
    ],
    "halves": [
        (lambda m, p, x, c: split(p, m, x, c), "swapped"),
        (lambda m, p, x, c: m(x, c), "classifier-free"),
        (lambda m, p, x, c: p(x, c), "both halves go to the guide"),
        (lambda m, p, x, c: p(x, c) + 1.5 * (m(x, c) - p(x, c)), "give it the two answers"),
        (lambda m, p, x, c: (p(x[:2], c[:2]), m(x[2:], c[2:])), "returns a tuple"),
        (lambda m, p, x, c: torch.cat([m(x[2:], c[2:]), p(x[:2], c[:2])]), "wrong order"),
        (lambda m, p, x, c: torch.cat([p(x[::2], c[::2]), m(x[1::2], c[1::2])]), "every second row"),
        (lambda m, p, x, c: torch.cat([p(x[:2], c[:2]), m(x[2:], c[:2])]), "the first part"),
        (lambda m, p, x, c: torch.cat([p(x[:2], c[2:]), m(x[2:], c[2:])]), "the last part"),
        (1.5, "expected a function"),
    ],
    "weight": [
        ((3, 0.467, 0.082), "the game allows 0.40"),
        ((1, 0.346, 0.046), "wants the largest"),
        ((1.5, 0.346, 0.046), "not with this one"),
        ((1.5, 0.501, 0.0837), "with itself"),
        ((1.5, 0.0837, 0.467), "the order is"),
        ((1.5, 46.7, 8.37), "not percentages"),
        ((1.5, 0.467, 0.3), "burnt at the next larger weight is not 0.3"),
        ((1.5, 0.9, 0.0837), "alike at the next larger weight is not 0.9"),
        ((2, 0.4, 0.1), "the record has 1, 1.5, 3"),
        (1.5, "expected three numbers"),
    ],
    "rescaled": [
        (lambda m, g, phi: mixed(m, g, 1 - phi), "phi = 0 must change nothing"),
        (lambda m, g, phi: mixed(m, g, -phi), "off by"),
        (about_its_mean, "kept the mean"),
        (
            lambda m, g, phi: (phi * m.var(AXES, keepdim=True) / g.var(AXES, keepdim=True) + 1 - phi) * g,
            "variances",
        ),
        (lambda m, g, phi: (m.std(AXES, keepdim=True) / g.std(AXES, keepdim=True)) ** phi * g, "a power"),
        (lambda m, g, phi: mixed(m, g, phi, ()), "each has its own spread"),
        (lambda m, g, phi: mixed(m, g, phi, (2, 3)), "each channel by itself"),
        (lambda m, g, phi: mixed(m, g, 1.0), "that is phi = 1"),
        (lambda m, g, phi: mixed(m, g, phi, keep=m), "mix with the guided one"),
        (lambda m, g, phi: g, "unchanged"),
        (lambda m, g, phi: m, "the unguided estimate"),
    ],
}

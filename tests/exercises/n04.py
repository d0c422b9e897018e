"""Wrong answers to the exercises of notebook 04, and the words of the hint each must meet."""


def swapped(labelled, null, pretrained, x, sigma):
    return (pretrained(x, sigma) - null(x, sigma)) / sigma[:, None] ** 2


def both_terms(labelled, null, pretrained, x, sigma):
    return (labelled(x, sigma) - pretrained(x, sigma)) / sigma[:, None] ** 2


def class_term(labelled, null, pretrained, x, sigma):
    return (labelled(x, sigma) - null(x, sigma)) / sigma[:, None] ** 2


def no_division(labelled, null, pretrained, x, sigma):
    return null(x, sigma) - pretrained(x, sigma)


def by_sigma(labelled, null, pretrained, x, sigma):
    return (null(x, sigma) - pretrained(x, sigma)) / sigma[:, None]


def one_score(labelled, null, pretrained, x, sigma):
    return (null(x, sigma) - x) / sigma[:, None] ** 2


def summed(labelled, null, pretrained, x, sigma):
    return (null(x, sigma) + pretrained(x, sigma) - 2 * x) / sigma[:, None] ** 2


def logarithms(labelled, null, pretrained, x, sigma):
    return null(x, sigma).log() - pretrained(x, sigma).log()


def scaled_logarithms(labelled, null, pretrained, x, sigma):
    return logarithms(labelled, null, pretrained, x, sigma) / sigma[:, None] ** 2


def one_logarithm(labelled, null, pretrained, x, sigma):
    return null(x, sigma).log()


def dog(main, guide, w, x, sigma):
    return guide(x, sigma) + w * (main(x, sigma) - guide(x, sigma))


def foreign_null(model, base, c, w, x, sigma):
    return dog(model.denoiser(c), base.denoiser(model.null), w, x, sigma)


def own_guide(model, base, c, w, x, sigma):
    return dog(model.denoiser(c), model.denoiser(model.null), w, x, sigma)


def foreign_class(model, base, c, w, x, sigma):
    return dog(model.denoiser(c), base.denoiser(c), w, x, sigma)


def exchanged(model, base, c, w, x, sigma):
    return dog(base.denoiser(base.null), model.denoiser(c), w, x, sigma)


def unlabelled(model, base, c, w, x, sigma):
    return dog(model.denoiser(model.null), base.denoiser(base.null), w, x, sigma)


def ten(model, base, c, w, x, sigma):
    return dog(model.denoiser(c), base.denoiser(10), w, x, sigma)


def at_one_weight(model, base, c, w, x, sigma):
    return dog(model.denoiser(c), base.denoiser(base.null), 1.5, x, sigma)


WRONG = {
    "narrowing": [
        ((0.4 / 3) ** 0.2, "from the centre of the source"),
        ((0.4 / 3) ** 0.4, "not at +1"),
        ((0.4 / 3) ** (1 + 0.4 / 3), "where it is off"),
        (0.4 * 0.7644, "width of the samples"),
        (0.7644**2, "ratio of variances"),
        (1 / 0.7644, "other way round"),
        ((0.4 / 3) ** (0.16 / 3), "target's variance"),
        ((0.4 / 3) ** (1 / 3), "miss by 1"),
        (1 + 0.4 / 3, "that is the weight"),
        (1, "left guidance off"),
        (0.4 / 3, "full ratio"),
        (0.2356, "how much they are narrower"),
        (76, "a percentage"),
    ],
    "domain_term": [
        (swapped, "wrong sign"),
        (both_terms, "the label is still in it"),
        (class_term, "that is the class term"),
        (no_division, "difference of guesses"),
        (by_sigma, "where sigma^2 belongs"),
        (one_score, "the score of p(x given 𝒟)"),
        (summed, "divides by p(x)"),
        (scaled_logarithms, "not a density"),
        (logarithms, "not a density"),
        (one_logarithm, "infinite or nan"),
        (0.5, "expected a function"),
        (
            lambda labelled, null, pretrained, x, sigma: (null(x, sigma) - pretrained(x, sigma)).norm(dim=1),
            "expected (40, 2)",
        ),
    ],
    "share": [
        ("a", "hardly any rest"),
        ("C", "but not the label"),
        ("d", "sits in p(x)"),
        ("CFG", "none of the options"),
    ],
    "ceiling": [
        (1.01, "miss by 1;"),
        (0.349, "half a target width"),
        (0.2422, "formula for equal widths"),
        (1.10, "in target widths"),
        (0.303, "a variance"),
    ],
    "mended": [
        (foreign_null, "other one's null label"),
        (own_guide, "classifier-free guidance"),
        (foreign_class, "another class to it"),
        (exchanged, "swapped"),
        (lambda model, base, c, w, x, sigma: model.denoiser(c)(x, sigma), "without guidance"),
        (lambda model, base, c, w, x, sigma: base.denoiser(base.null)(x, sigma), "goes on"),
        (unlabelled, "lost its label"),
        (ten, "out of range"),
        (at_one_weight, "whatever w is"),
        (lambda model, base, c, w, x, sigma: model.denoiser(c), "it returns a function"),
    ],
}

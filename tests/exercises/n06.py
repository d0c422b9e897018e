"""Wrong answers to the exercises of notebook 06, and the words of the hint each must meet."""

WRONG = {
    "seeds_needed": [
        (450, "square root of their number"),
        (49.4, "that is the factor"),
        (7, "how much longer"),
        (170, "not with its square"),
        (1.3, "how few seeds"),
        (2718, "from CFG to DoG"),
        (265, "for the moons"),
    ],
    "one_seed": [
        ("a", "not about the seeds"),
        ("b", "throws away"),
        ("D", "one weight"),
        ("none", "none of the options"),
    ],
    "removed": [
        (lambda none, dog, picks: dog[picks].mean(1) / none[picks].mean(1), "the share which is left"),
        (lambda none, dog, picks: (1 - dog[picks] / none[picks]).mean(1), "mean of ratios"),
        (lambda none, dog, picks: none[picks].mean(1) - dog[picks].mean(1), "difference of rates"),
        (lambda none, dog, picks: 1 - dog[picks].mean(1) / none.mean(), "only DoG is resampled"),
        (lambda none, dog, picks: 1 - dog.mean() / none[picks].mean(1), "only none is resampled"),
        (lambda none, dog, picks: 1 - dog[picks].mean(1) / none[picks[::-1]].mean(1), "different draws"),
        (lambda none, dog, picks: 1 - none[picks].mean(1) / dog[picks].mean(1), "wrong way round"),
        (lambda none, dog, picks: 1 - dog.mean() / none.mean() + 0 * picks[:, 0], "not resampled"),
        (lambda none, dog, picks: 100 - 100 * dog[picks].mean(1) / none[picks].mean(1), "per cent"),
        (lambda none, dog, picks: 1 - dog[picks].mean(0) / none[picks].mean(0), "expected (40,)"),
    ],
    "price": [
        (0.54, "compares at the same w"),
        (1.865, "compares the rates"),
        (1 / 2.458, "other way round"),
        (1.46, "the prices were asked"),
        (0.0173, "ratio to DoG's was asked"),
        (2.73, "for w = 1.5"),
        (1.03, "for w = 1.25"),
        (13.25, "the second time"),
        (4.2, "energy distance of none"),
    ],
}

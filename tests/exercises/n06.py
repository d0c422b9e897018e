"""Wrong answers to the exercises of notebook 06, and the words of the hint each must meet."""

WRONG = {
    "seeds_needed": [
        (73.9, "square root of their number"),
        (21.3, "that is the factor"),
        (4.62, "how much longer"),
        (34.4, "not with its square"),
        (0.75, "how few seeds"),
        (169, "for CFG to DoG"),
        (141, "for the moons"),
        (46.9, "for w = 1.25"),
    ],
    "one_seed": [
        ("a", "not about the sources"),
        ("b", "throws away"),
        ("D", "compares CFG with no guidance"),
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
        (1.008, "compares at the same w"),
        (1.588, "compares the rates"),
        (1 / 1.73, "other way round"),
        (1.219, "the prices were asked"),
        (0.0069, "ratio to DoG's was asked"),
        (1.908, "for w = 1.25"),
        (1.05, "for w = 1.1"),
        (40.5, "rising numbers"),
        (36.4, "rises again"),
    ],
}

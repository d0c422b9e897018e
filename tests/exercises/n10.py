"""Wrong answers to the exercises of notebook 10, and the words of the hint each must meet."""


def stepped(x_t, time, v):
    return x_t - time[:, None] * v


def scaled(x, sigma):
    return x / (1 + sigma)[:, None]


def time(sigma):
    return sigma / (1 + sigma)


def as_dit(v, x, s):
    scale = 1 / (1 + s**2).sqrt()
    return stepped(x * scale[:, None], s * scale, v(x * scale[:, None], s * scale))


WRONG = {
    "level": [
        (2.0, "the noise level itself"),
        (0.8, "share of the noise's variance"),
        (0.8944, "before DiT's noise"),
        (0.3333, "share of the picture"),
        (-2.0, "solve for t"),
        (0.5528, "the picture's factor alone"),
        (0.4472, "abar's root"),
        (667, "from 0 to 1"),
    ],
    "denoise": [
        (lambda v, x, s: stepped(x, time(s), v(x, time(s))), "forgot to scale"),
        (lambda v, x, s: stepped(x, time(s), v(scaled(x, s), time(s))), "x_t - t v, not x - t v"),
        (lambda v, x, s: stepped(scaled(x, s), time(s), v(scaled(x, s), s)), "sigma for its time"),
        (lambda v, x, s: stepped(scaled(x, s), s, v(scaled(x, s), time(s))), "t long, not sigma"),
        (lambda v, x, s: stepped(x, s, v(scaled(x, s), time(s))), "v is not the noise"),
        (lambda v, x, s: stepped(scaled(x, s), -time(s), v(scaled(x, s), time(s))), "sign is turned"),
        (lambda v, x, s: stepped(scaled(x, s), time(s), v(scaled(x, s), 1 - time(s))), "the picture's"),
        (lambda v, x, s: v(scaled(x, s), time(s)), "return the velocity"),
        (lambda v, x, s: stepped(scaled(x, s), time(s) - 1, v(scaled(x, s), time(s))), "that is the noise"),
        (lambda v, x, s: stepped(scaled(x, s), time(s), v(scaled(x, s), 1000 * time(s))), "a thousand"),
        (lambda v, x, s: stepped(scaled(x, s), 1 - time(s), v(scaled(x, s), 1 - time(s))), "off by"),
        (
            lambda v, x, s: stepped(scaled(x, 1 / s), time(1 / s), v(scaled(x, 1 / s), time(1 / s))),
            "picture's",
        ),
        (as_dit, "with roots"),
        (4.0, "expected a function"),
    ],
    "crowded": [
        ("a", "copies of one pizza"),
        ("b", "more samples"),
        ("d", "4.5 is too large"),
        ("precision", "none of the options"),
    ],
    "breadth": [
        (0.25, "at all noise levels"),
        (0.26154, "the rest"),
        (0.28713, "the detail's"),
        (1.0, "no guidance"),
        (1.0461, "the reciprocal"),
        (0.9139, "left out the half"),
        (0.97775, "that is w = 2"),
    ],
}

"""Wrong answers to the exercises of notebook 10, and the words of the hint each must meet."""


def stepped(x_t, time, v):
    return x_t - time[:, None] * v


def scaled(x, sigma):
    return x / (1 + sigma)[:, None]


def time(sigma):
    return sigma / (1 + sigma)


WRONG = {
    "level": [
        (0.8, "that is t itself"),
        (0.25, "signal over noise"),
        (5.0, "scales the picture back"),
        (2.0, "not with their roots"),
        (16.0, "you squared"),
        (800, "thousand times t"),
        (-4.0, "of the wrong sign"),
    ],
    "denoise": [
        (lambda v, x, s: stepped(x, time(s), v(x, time(s))), "forgot to scale"),
        (lambda v, x, s: stepped(x, time(s), v(scaled(x, s), time(s))), "x_t - t v, not x - t v"),
        (lambda v, x, s: stepped(scaled(x, s), time(s), v(scaled(x, s), s)), "sigma for its time"),
        (lambda v, x, s: stepped(scaled(x, s), s, v(scaled(x, s), time(s))), "t long, not sigma"),
        (lambda v, x, s: stepped(x, s, v(scaled(x, s), time(s))), "v is not the noise"),
        (lambda v, x, s: stepped(scaled(x, s), -time(s), v(scaled(x, s), time(s))), "sign is turned"),
        (lambda v, x, s: v(scaled(x, s), time(s)), "return the velocity"),
        (lambda v, x, s: stepped(scaled(x, s), time(s) - 1, v(scaled(x, s), time(s))), "that is the noise"),
        (4.0, "expected a function"),
    ],
    "crowded": [
        ("a", "copies of one pizza"),
        ("b", "more samples"),
        ("d", "guidance harms"),
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

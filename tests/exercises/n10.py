"""Wrong answers to the exercises of notebook 10, and the words of the hint each must meet."""

import torch


def on(channels, share=lambda w: w):
    def guided(main, guide, w):
        found = main.clone()
        found[:, channels] = (guide + share(w) * (main - guide))[:, channels]
        return found

    return guided


first = slice(0, 3)


def guides_rest(main, guide, w):
    return torch.cat([on(first)(main, guide, w)[:, :3], guide[:, 3:]], 1)


WRONG = {
    "level": [
        (4.0, "take the root"),
        (0.894, "shrunk picture x_t"),
        (4.472, "divided by abar"),
        (0.5, "signal over noise"),
        (0.447, "factor by which"),
        (2.236, "dropped the -1"),
        (-2.0, "of the wrong sign"),
    ],
    "three": [
        (on(slice(0, 4)), "all four channels"),
        (guides_rest, "last channel is the guide's"),
        (on(slice(1, 4)), "last three"),
        (on(slice(0, 2)), "one channel too few"),
        (lambda m, p, w: torch.cat([on(first)(p, m, w)[:, :3], m[:, 3:]], 1), "swapped"),
        (on(first, lambda w: w + 1), "off by one"),
        (on(first, lambda w: w - 1), "one too small"),
        (on(first, lambda w: -w), "sign is turned"),
        (lambda m, p, w: torch.cat([(p + w * (m - p))[:3], m[3:]]), "along the batch"),
        (1.5, "expected a function"),
    ],
    "crowded": [
        ("a", "right one"),
        ("b", "more samples"),
        ("d", "guidance harms"),
        ("precision", "none of the options"),
    ],
}

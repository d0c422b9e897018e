"""Checks for the exercises of the notebooks, one module a notebook: `from dgtoy.course.check import n04 as check`, then `check.weight(answer)`.

A check prints one line and never raises: "not attempted" for None, a tick, or a cross with what is off, in the learner's own terms.
"""

import functools
import math

import torch


def exercise(judge):
    """Make a check of a function that returns None for a right answer and a hint, one sentence, for a wrong one."""

    @functools.wraps(judge)
    def check(answer=None):
        if answer is None:
            return print(f"{judge.__name__}: not attempted")
        try:
            hint = judge(answer)
        except Exception as e:
            hint = f"it stops with {type(e).__name__}: {' '.join(str(e).split())[:120]}"
        print(f"✓ {judge.__name__}" if hint is None else f"✗ {judge.__name__}: {hint}")

    check.judge = judge
    return check


def number(answer, truth, mistakes=None, rtol=0.02, atol=1e-9):
    """Judge one number. mistakes: {what was done instead: the number that it gives}.  -> a hint or None"""
    came = float(answer)
    if not math.isfinite(came):
        return f"yours is {came}; expected a finite number"
    if math.isclose(came, truth, rel_tol=rtol, abs_tol=atol):
        return None
    for what, value in (mistakes or {}).items():
        if math.isclose(came, value, rel_tol=rtol, abs_tol=atol):
            return f"yours is {came:.4g}: {what}"
    return f"yours is {came:.4g}, {_off(came, truth)}"


def _off(came, truth):
    if truth and came and came / truth > 0:
        ratio = came / truth
        return (
            f"{'too large' if ratio > 1 else 'too small'} in size by a factor of {max(ratio, 1 / ratio):.3g}"
        )
    if truth and came:
        return "of the wrong sign"
    return "too large" if came > truth else "too small"


def function(answer, truth, cases, mistakes=None, rtol=1e-4, atol=1e-5):
    """Judge a function by its values on cases, tuples of arguments. mistakes: {what was done instead: a function that does it}.  -> a hint or None"""
    if not callable(answer):
        return f"yours is a {type(answer).__name__}; expected a function"
    came, expected = ([torch.as_tensor(f(*case)) for case in cases] for f in (answer, truth))
    for a, b in zip(came, expected, strict=True):
        if a.shape != b.shape:
            return f"it returns shape {tuple(a.shape)}; expected {tuple(b.shape)}"
    same = lambda values: all(
        torch.allclose(a.double(), v.double(), rtol=rtol, atol=atol)
        for a, v in zip(came, values, strict=True)
    )
    if same(expected):
        return None
    for what, wrong in (mistakes or {}).items():
        if same([torch.as_tensor(wrong(*case)) for case in cases]):
            return what
    worst = max(
        zip(came, expected, strict=True), key=lambda pair: (pair[0].double() - pair[1].double()).abs().max()
    )
    return f"its values are off by up to {(worst[0].double() - worst[1].double()).abs().max():.3g}"


def choice(answer, right, why):
    """Judge a choice among options. why: {wrong option: why not}.  -> a hint or None"""
    came = str(answer).strip().lower()
    if came == right:
        return None
    return why.get(
        came, f"{answer!r} is none of the options; expected one of {', '.join(sorted([right, *why]))}"
    )

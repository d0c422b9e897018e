"""Checks for the exercises of the notebooks, one module per notebook:
`from dgtoy.course.check import n04 as check`, then `check.share(answer)`.

An exercise is declared by a function that returns what is right, and {mistake: the answer that it leads to};
`@number()`, `@function(cases)` and `@choice` turn it into a check. A check prints one line and never raises:
"not attempted" for None, a tick and how many of the notebook's exercises are solved, or a cross and what is
off, in the learner's own terms. `check.share.hint()` prints a first hint, and called again a second: the
paragraphs below the question in the exercise's docstring.
"""

import copy
import functools
import inspect
import math
import pathlib
import string
import sys

import torch

from .. import records

FIGURES = pathlib.Path(__file__).parents[3] / "figures"  # beside the package, wherever the notebook runs


@functools.cache
def record(name):
    """A record of the course. Raises FileNotFoundError where the package was installed without them."""
    if not (FIGURES / f"{name}.json").exists():
        raise FileNotFoundError(f"{FIGURES / name}.json is missing; a clone of the repository has it")
    return records.load(name, FIGURES)


def normal(*shape):
    """Standard normal numbers, the same at every call."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Exercise:
    """The check of an exercise: called with an answer it prints whether that is right, else what is off.

    `solved` says whether the reader's own `answer` has passed; passing the folded solution does not count.
    """

    of_module = {}  # {the module of a notebook's checks: {name: exercise}}

    def __init__(self, judge, declare):
        """judge(answer, declare) -> None if right, else what is off"""
        self.__name__, self.__doc__ = declare.__name__, declare.__doc__
        self.judge, self.declare = judge, declare
        _, *self.hints = inspect.cleandoc(declare.__doc__ or "").split("\n\n")
        self.solved, self.hinted = False, 0
        self.notebook = self.of_module.setdefault(declare.__module__, {})
        self.notebook[self.__name__] = self

    def __call__(self, answer=None):
        is_own = sys._getframe(1).f_globals.get("answer") is answer  # and not the notebook's `solution`
        self.solved = self.solved and not is_own
        if answer is None:
            print(f"{self.__name__}: not attempted")
            return
        try:
            hint = self.judge(answer, self.declare)
        except FileNotFoundError as e:
            print(f"? {self.__name__}: cannot be checked, {e}")
            return
        except Exception as e:
            hint = f"it stops with {type(e).__name__}: {str(e)[:120]}"
        if hint is not None:
            print(f"✗ {self.__name__}: {' '.join(hint.split())}")
        elif is_own:
            self.solved = True
            solved = sum(exercise.solved for exercise in self.notebook.values())
            print(f"✓ {self.__name__}: {solved} of {len(self.notebook)} solved")
        else:
            print(f"✓ {self.__name__}")

    def hint(self):
        """Print the exercise's next hint."""
        if self.hinted < len(self.hints):
            print(" ".join(self.hints[self.hinted].split()))
            self.hinted += 1
        else:
            print("There are no more hints.")


def number(rtol=0.02):
    """The check of a number.  declare() -> right, {mistake: what it gives, or an interval (low, high)}

    Of several mistakes within the tolerance the hint names the nearest.
    """

    def judge(answer, declare):
        try:
            yours = float(answer.item() if hasattr(answer, "item") else answer)
        except (TypeError, ValueError, RuntimeError):
            shape = f" of shape {tuple(answer.shape)}" if hasattr(answer, "shape") else ""
            return f"yours is a {type(answer).__name__}{shape}; expected a number"
        if not math.isfinite(yours):
            return f"yours is {yours}; expected a finite number"

        def distance(value):
            low, high = value if isinstance(value, tuple) else (value, value)
            return max(low - yours, yours - high, 0)

        tolerance = max(rtol * abs(yours), 1e-9)
        right, mistakes = declare()
        if distance(right) <= tolerance:
            return None
        made = min(mistakes, key=lambda why: distance(mistakes[why]))
        if distance(mistakes[made]) <= tolerance:
            return f"yours is {yours:.4g}: {made}"
        if distance(100 * right) <= tolerance:
            return f"yours is {yours:.4g}: that is a percentage; the plain number was asked"
        if distance(right) <= 0.1 * abs(right):
            asked = f"{100 * rtol:g}% is asked; keep more digits, or find the slip"
            return f"yours is {yours:.5g}: close, but {asked}"
        return f"yours is {yours:.4g}, {_compared(yours, right)}"

    return functools.partial(Exercise, judge)


def _compared(yours, right):
    """In words, how a wrong number compares with the right one, which is not 0."""
    size = abs(yours / right)
    factor = f" by a factor of {max(size, 1 / size):.3g}" if size else ""
    off = f"too {'large' if size > 1 else 'small'} in size{factor}"
    if yours / right >= 0:
        return off
    return "of the wrong sign" if 0.98 < size < 1.02 else f"of the wrong sign, and {off}"


def function(cases, rtol=1e-4, atol=1e-5):
    """The check of a function, by its values on `cases`, each a tuple of arguments.

    declare(*case) -> right, {mistake: the value that it gives}; a mistake is named if all cases show it.
    """

    def judge(answer, declare):
        if not callable(answer):
            return f"yours is a {type(answer).__name__}; expected a function"
        yours = [answer(*copy.deepcopy(case)) for case in cases]  # an answer may change its arguments
        if any(value is None for value in yours):
            return "it returns None; it has to end with return"
        if any(callable(value) for value in yours):
            return "it returns a function; call it, and return its values"
        right, mistakes = zip(*(declare(*case) for case in cases))
        right = [torch.as_tensor(value).double() for value in right]
        try:
            yours = [torch.as_tensor(value).double() for value in yours]
        except (TypeError, ValueError, RuntimeError):
            return (
                f"it returns a {type(yours[0]).__name__}; expected a tensor of shape {tuple(right[0].shape)}"
            )
        yours = [a.expand_as(b) if a.ndim == 0 else a for a, b in zip(yours, right)]  # a constant
        yours = [a.reshape(b.shape) if a.numel() == b.numel() == 1 else a for a, b in zip(yours, right)]
        for a, b in zip(yours, right):
            if a.shape != b.shape:
                return f"it returns shape {tuple(a.shape)}; expected {tuple(b.shape)}"

        def same(values):
            pairs = zip(yours, values)
            return all(
                torch.allclose(a, torch.as_tensor(b).double(), rtol, atol, equal_nan=True) for a, b in pairs
            )

        if same(right):
            return None
        for why in mistakes[0]:
            if same([values[why] for values in mistakes]):
                return why
        yours, right = (torch.cat([value.flatten() for value in values]) for values in (yours, right))
        wild = int((~yours.isfinite()).sum())
        if wild:
            return f"{wild} of its {len(yours)} values are infinite or nan"
        ratio = (yours @ right / (right @ right)).item()
        if torch.allclose(yours, ratio * right, rtol, atol):
            return f"its values are all {_compared(ratio, 1)}"
        return f"its values are off by up to {(yours - right).abs().max():.3g}"

    return functools.partial(Exercise, judge)


def _chosen(answer, declare):
    """declare() -> right, {wrong option: why not}; "(B)" and "b) and its words" are as good as "b"."""
    letter, *_ = str(answer).split(") ")
    yours = letter.strip(string.punctuation + string.whitespace).lower()
    right, why = declare()
    if yours == right:
        return None
    options = ", ".join(sorted([right, *why]))
    return why.get(yours, f"{str(answer)[:40]!r} is none of the options; expected one of {options}")


choice = functools.partial(Exercise, _chosen)

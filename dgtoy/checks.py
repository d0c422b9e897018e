"""What comes in, checked before any work: an error names the argument, what came and what was expected."""

import math
import operator

import numpy as np
import torch


def check_numbers(name, value, dtype=None, device="cpu"):
    """value as a tensor; one that is a tensor stays as it is.

    dtype, device: of what is made of anything else; numbers stay on the CPU, whatever torch's default device.
    Raises TypeError unless it holds real numbers.
    """
    try:
        found = value if torch.is_tensor(value) else torch.as_tensor(value, dtype=dtype, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        found = None
    if found is None or found.is_complex() or isinstance(value, np.ndarray) and np.iscomplexobj(value):
        raise TypeError(f"{name} is {shown(value)}; expected numbers")
    return found


def check_number(name, value, within="[-inf, inf]"):
    """value as a float. Raises TypeError unless it is one number, ValueError unless it lies in an interval,
    written as "[0, 1)"; nan lies in none."""
    found = check_numbers(name, value, torch.float64)
    if found.ndim:
        raise TypeError(f"{name} is {shown(value)}; expected one number")
    number = float(found.item())
    low, high = map(float, within[1:-1].split(","))
    at_an_end = (number == low and within[0] == "[") or (number == high and within[-1] == "]")
    if not (low < number < high or at_an_end):
        came = number if torch.is_tensor(value) else value
        raise ValueError(f"{name} is {came}; expected a number in {within}")
    return number


def check_whole(name, value, least=-math.inf):
    """value as an int. Raises TypeError unless it is a whole number, ValueError for one below `least`."""
    try:
        found = None if isinstance(value, bool) else int(operator.index(value))
    except TypeError:
        found = None
    if found is None:
        raise TypeError(f"{name} is {shown(value)}; expected a whole number")
    if found < least:
        raise ValueError(f"{name} is {found}; expected {least} or more")
    return found


def check_integers(name, value):
    """value as a tensor. Raises TypeError for what holds no numbers, ValueError for other than integers."""
    found = check_numbers(name, value)
    if found.numel() and (found.dtype.is_floating_point or found.dtype == torch.bool):
        raise ValueError(f"{name} has dtype {found.dtype}; expected integers")
    return found


def check_seed(name, value):
    """value as an int. Raises as `check_whole`, and for one that leaves no room for the numbers of steps."""
    found = check_whole(name, value)
    if abs(found) > 2**40:
        raise ValueError(f"{name} is {found}; expected -2^40 to 2^40")
    return found


def check_points(**given):
    """Raise TypeError, naming it, for points that are no tensor of floating point numbers."""
    for name, x in given.items():
        if not torch.is_tensor(x) or not x.is_floating_point():
            raise TypeError(f"{name} is {shown(x)}; expected a tensor of floating point numbers")


def readable(x):
    """Whether a look at the numbers of a tensor costs nothing; a GPU would be waited for at every step."""
    return x.is_cpu and not traced(x)


def traced(x):
    """Whether `torch.compile` or `torch.func` is at work, inside of which a tensor may have no numbers."""
    return torch.compiler.is_compiling() or torch._C._functorch.is_functorch_wrapped_tensor(x)


def check_denoisers(**given):
    """Raise TypeError, naming it, for a denoiser that cannot be called."""
    for name, D in given.items():
        if not callable(D):
            raise TypeError(f"{name} is {shown(D)}; expected a denoiser, D(x, sigma) -> x0_hat")


def check_generator(generator):
    """Raise TypeError for what is neither None nor a torch.Generator."""
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"generator is {shown(generator)}; expected a torch.Generator")


def shown(value):
    """What came, in a few words on one line."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = type(value).__name__
        return f"a {kind} of {value.dtype}, shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    if text.startswith("<") or isinstance(value, torch.nn.Module):  # its place, or layers, tell nothing
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."

"""What comes in, checked before any work: an error names the argument, what came and what was expected."""

import math
import operator

import numpy as np
import torch
from torch.autograd import forward_ad

SEEDS = "[-2147483648, 4294967295]"

# numbers


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
    """value as an int. Raises as `check_whole`, and for one of more than 32 bits: of those torch's generator
    on the CPU reads the last 32, so that 2^32 would draw what 0 does. (-1 is 2^32 - 1, as torch has it.)"""
    found = check_whole(name, value)
    check_number(name, found, SEEDS)
    return found


# points and noise levels


def check_points(**given):
    """Raise TypeError, naming it, for points that are no tensor of floating point numbers."""
    for name, x in given.items():
        if not torch.is_tensor(x) or not x.is_floating_point():
            raise TypeError(f"{name} is {shown(x)}; expected a tensor of floating point numbers")


def check_finite(**given):
    """Raise ValueError, naming it, for points that are not finite, where that can be seen (`readable`)."""
    for name, x in given.items():
        if readable(x) and not x.isfinite().all():
            raise ValueError(f"{name} holds values that are not finite; expected finite points")


def check_level(sigma, x, zero=False, point=1):
    """sigma () or (*B,) as a tensor, in float64 if it was none.

    zero: whether sigma = 0 is meaningful (a density has a score there, a denoiser has nothing to do).
    point: how many of x's last axes belong to a point, at least.
    Raises TypeError for an x or sigma without numbers; ValueError if sigma is negative, 0 where it must not
    be, not finite in x's precision, or of a shape that does not lead x's.
    """
    check_points(x=x)
    sigma = check_numbers("sigma", sigma, torch.float64)
    check_leads("sigma", sigma, x, point)
    if readable(sigma):
        level = sigma.to(x.dtype)
        bad = ~level.isfinite() | (level < 0 if zero else level <= 0)
        if bad.any():
            came, expected = sigma[bad].flatten()[0], ">= 0" if zero else "> 0"
            raise ValueError(f"sigma is {came:g}; expected a finite value {expected} in {x.dtype}")
    return sigma


def check_levels(levels, x):
    """Raise ValueError if one of these numbers is 0 or infinite in x's precision."""
    levels = torch.tensor(levels, dtype=torch.float64, device="cpu")
    check_level(levels, levels[:, None].to(x.dtype))


def check_sigma(sigma, x, zero=False):
    """As `check_level`, in x's dtype, on its device, shaped to multiply x (*B, *D): (), or (*B, 1, ...)."""
    return append_dims(check_level(sigma, x, zero).to(x.device, x.dtype), x)


def check_leads(name, value, x, point=1):
    """Raise ValueError unless a tensor is a number or has the first axes of x, none of those of a point."""
    room = x.ndim - point
    axes = value.ndim if value.ndim <= room else min(1, room)
    check_shape(name, value, x.shape[:axes], x)


def check_shape(name, value, lead, x):
    """Raise ValueError unless a tensor has shape () or `lead`, the first axes of x."""
    if value.shape not in ((), lead):
        came, expected, of = tuple(value.shape), tuple(lead), tuple(x.shape)
        raise ValueError(f"{name} has shape {came}; expected () or {expected} for x {of}")


def append_dims(value, x):
    """value () or (*B,) shaped to multiply x (*B, *D): an axis of length 1 for each further one of x."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim)) if value.ndim else value


def check_interval(interval):
    """An interval of noise levels as two numbers. Raises ValueError for one that holds none."""
    try:
        low, high = map(float, interval)
    except (TypeError, ValueError):
        raise ValueError(f"interval is {shown(interval)}; expected two noise levels, low and high") from None
    if not 0 <= low < high:
        raise ValueError(f"interval is ({low}, {high}); expected 0 <= low < high")
    return low, high


# denoisers and noise


def check_denoisers(**given):
    """Raise TypeError, naming it, for a denoiser that cannot be called."""
    check_callable("a denoiser, D(x, sigma) -> x0_hat", **given)


def check_callable(expected, **given):
    """Raise TypeError, naming it and what was expected, for what cannot be called."""
    for name, value in given.items():
        if not callable(value):
            raise TypeError(f"{name} is {shown(value)}; expected {expected}")


def check_estimate(name, x0_hat, x):
    """A denoiser's estimate as it came. Raises ValueError, naming it, for one of another shape than x."""
    if not torch.is_tensor(x0_hat) or x0_hat.shape != x.shape:
        raise ValueError(f"{name} gives {shown(x0_hat)}; expected an estimate of x {tuple(x.shape)}")
    return x0_hat


def check_alike(**given):
    """Raise ValueError, naming two that differ, unless these are tensors of one shape."""
    (first, one), *others = given.items()
    for name, other in others:
        if not (torch.is_tensor(one) and torch.is_tensor(other) and one.shape == other.shape):
            came = f"{first} is {shown(one)} and {name} is {shown(other)}"
            raise ValueError(f"{came}; expected tensors of one shape")


def check_generator(generator):
    """Raise TypeError for what is neither None nor a torch.Generator."""
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"generator is {shown(generator)}; expected a torch.Generator")


def check_noise(generator, x):
    """Raise unless this is a generator, a list of them, one for each entry of x's first axis, or None."""
    several = isinstance(generator, list | tuple)
    if several and [len(generator)] != list(x.shape[:1]):
        raise ValueError(
            f"generator holds {len(generator)} generators; expected one for each entry of x {tuple(x.shape)}"
        )
    for g in generator if several else [generator]:
        check_generator(g)


# what can be told of a value


def readable(x):
    """Whether a look at the numbers of a tensor costs nothing; a GPU would be waited for at every step."""
    return x.is_cpu and not traced(x)


def traced(x):
    """Whether `torch.compile` or `torch.func` is at work, inside of which a tensor may have no numbers."""
    return torch.compiler.is_compiling() or mapped(x)


def mapped(x):
    """Whether `torch.func` is at work on this tensor: under vmap it stands for many values, none of which can
    be asked for."""
    wrapped = torch._C._functorch.is_functorch_wrapped_tensor  # which the compiler cannot read
    return not torch.compiler.is_compiling() and wrapped(x)


def followed(x):
    """Whether a derivative by this tensor is under way, a backward or a forward one, or
    `torch.func` at work on it."""
    backward = x.requires_grad and torch.is_grad_enabled()
    return backward or mapped(x) or forward_ad.unpack_dual(x).tangent is not None


def shown(value):
    """What came, in a few words on one line."""
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        kind = type(value).__name__
        return f"a {kind} of {value.dtype}, shape {tuple(value.shape)}"
    text = " ".join(repr(value).split())
    if text.startswith("<") or isinstance(value, torch.nn.Module):  # its place, or layers, tell nothing
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."

"""What this machine offers: optional packages, and a device."""

import importlib.util


def needs(extra, *modules):
    """Raise ImportError, naming the extra to install, if one of these modules is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"{', '.join(missing)} missing; install the extra: pip install -e '.[{extra}]' in dgtoy's folder"
        )


def device(name=None):
    """`name`, by default cuda where there is one. Raises ValueError for a device that is not there."""
    import torch

    found = torch.cuda.is_available()
    if name is None:
        return "cuda" if found else "cpu"
    if (name.startswith("cuda") and not found) or not _works(name):
        has = "has CUDA, expected cpu, cuda or cuda:N" if found else "has no CUDA device, expected cpu"
        raise ValueError(f"device is {name}; this machine {has}")
    return name


def _works(name):
    """Whether a tensor with numbers can be made there."""
    import torch

    try:
        return not torch.empty(1, device=name).is_meta
    except (RuntimeError, AssertionError):  # no such word, no such index, or torch built without it
        return False

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
    """`name`, by default cuda where there is one. Raises ValueError for a CUDA device that is not there."""
    import torch

    found = torch.cuda.is_available()
    if name is None:
        return "cuda" if found else "cpu"
    if name.startswith("cuda") and not found:
        raise ValueError(f"--device is {name}; this machine has no CUDA device")
    return name

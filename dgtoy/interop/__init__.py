"""Fine-tuned models from elsewhere: diffusers pipelines, and LoRA, guided by the network without it.

What works on pipelines keeps out of torch.compile, whose import takes seconds: its names load when asked for.
"""

import importlib

from .lora import add_lora as add_lora
from .lora import lora_guide as lora_guide

_NAMES = {
    "calibrate": ("advice", "calibrate_pipeline"),
    "card": ("model_card",),
    "denoisers": ("as_denoiser", "denoiser"),
    "guided": ("DomainGuidedModel",),
    "levels": ("sigma_to_t", "t_to_sigma"),
    "loading": ("load_guide",),
    "pipelines": ("guide_pipeline", "unguide"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name):
    """The names above."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)


def __dir__():
    return sorted({*globals(), *_HOME})

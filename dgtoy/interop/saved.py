"""A guide written down beside its fine-tuned network when a pipeline is saved: no weights, a reference.

In the network's folder domain_guidance.json holds the options and where the guide is; the guide's own null
condition, if it has one, is in domain_guidance.safetensors. `load_guide` puts the guide back from there.
config.json says that there is one: if a network without a guide is saved over it, that one does not.
"""

import contextlib
import json
import math
import pathlib

from ..checkpoint import read_safetensors, write_safetensors, write_text
from .adapters import WithoutAdapter, peft_layers
from .checks import OPTIONS, bare

NAME = "domain_guidance"
MARK = f"_{NAME}"  # in config.json
KINDS = ("adapter", "blur", "network")  # of guides


def reference(model):
    """Where a network or pipeline was loaded from, a folder or a name; None for one made in memory."""
    path = getattr(getattr(model, "config", None), "_name_or_path", None)
    return str(path) if path else None


def save_with_guide(guided, folder, *args, **kwargs):
    """Save the fine-tuned network of a `DomainGuidedModel` without its adapters, and beside it the options,
    the reference to the guide and its null condition. args, kwargs: of the network's own `save_pretrained`.
    """
    net, config = bare(guided.finetuned), pathlib.Path(folder) / "config.json"
    with without_adapters(net):
        net.save_pretrained(folder, *args, **kwargs)
    write_guide(guided, folder)
    told = json.loads(config.read_text(encoding="utf-8"))
    write_text(config, json.dumps(told | {MARK: True}, indent=2) + "\n")


def forget_guide(net):
    """A network that was loaded from a guided one's folder is from now on saved as one without a guide."""
    if bare(net).config.get(MARK):
        bare(net).register_to_config(**{MARK: False})


def write_guide(guided, folder):
    """Options, reference and null condition of a `DomainGuidedModel`, into its network's folder."""
    told = {name: getattr(guided, name) for name in OPTIONS}
    told["interval"] = [None if level == math.inf else level for level in guided.interval]
    if isinstance(guided.pretrained, WithoutAdapter):
        told |= dict(guide="adapter", adapter=guided.pretrained.adapter)
    elif guided.blur is not None:
        told |= dict(guide="blur")
    else:
        told |= dict(guide="network", pretrained=guided.source)
    tensors = pathlib.Path(folder) / f"{NAME}.safetensors"
    if guided.null:
        write_safetensors(tensors, _flat(guided.null), {})
    else:  # nor may another's, that was saved there before, be read with it
        tensors.unlink(missing_ok=True)
    write_text(pathlib.Path(folder) / f"{NAME}.json", json.dumps(told, indent=1) + "\n")


@contextlib.contextmanager
def without_adapters(net):
    """Within the block a network's state dict has its base's names and weights alone, so that what is saved
    can be loaded; with peft's adapters in it diffusers writes names that it does not know again."""
    state, layers = type(net).state_dict(net), set(peft_layers(net))
    for name, layer in net.named_modules():
        if layer not in layers:
            continue
        inner = f"{name}.original_module." if hasattr(layer, "original_module") else f"{name}.base_layer."
        for key in [key for key in state if key.startswith(f"{name}.")]:
            value = state.pop(key)
            if key.startswith(inner):
                state[key.replace(inner, f"{name}.")] = value
    net.__dict__["state_dict"] = lambda: state
    try:
        yield
    finally:
        del net.__dict__["state_dict"]


def read_guide(folder):
    """What `write_guide` wrote.  -> the kind of guide and where it is, options, null condition or None

    Raises ValueError if the folder lacks it, or a network without a guide was saved over it.
    """
    path = pathlib.Path(folder) / f"{NAME}.json"
    if not path.is_file():
        raise ValueError(f"folder {folder} lacks {path.name}; expected a guided pipeline's network")
    if not json.loads(path.with_name("config.json").read_text(encoding="utf-8")).get(MARK):
        raise ValueError(
            f"folder {folder} has {path.name} of a network that was there before; expected a guided one's"
        )
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        options = {name: told.pop(name) for name in OPTIONS}
        options["interval"] = tuple(math.inf if level is None else level for level in options["interval"])
        kind = told["guide"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(
            f"folder {folder} has a broken {path.name}; expected the one that was saved"
        ) from None
    if kind not in KINDS:
        raise ValueError(f"folder {folder} tells of a guide {kind!r}; expected one of {', '.join(KINDS)}")
    tensors = path.with_suffix(".safetensors")
    return told, options, _nested(read_safetensors(tensors)[0]) if tensors.exists() else None


def _flat(null, prefix=""):
    """Nested inputs as tensors by dotted names."""
    found = {}
    for name, value in null.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def _nested(tensors):
    """The inverse of `_flat`."""
    found = {}
    for name, value in tensors.items():
        *outer, last = name.split(".")
        inner = found
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return found

"""Guides put back into pipelines that were saved with one."""

import pathlib
import warnings

from .checks import network_name
from .lora import lora_guide
from .pipelines import guide_pipeline
from .saved import read_guide


def load_guide(pipe, folder, pretrained=None):
    """Guide a pipeline as the one was that `save_pretrained` put into `folder`. In place.  -> the pipeline

    pretrained: the guide, a pipeline, a network, a folder or a name; by default the one that the folder
    refers to. It is read from this disk, not fetched. A LoRA is loaded first, by `load_lora_weights`.
    Raises ValueError if the folder tells of no guide, the guide is not there or does not fit, or `pretrained`
    is given where the guide is no second network.
    """
    name = network_name(pipe)
    told, options, null = read_guide(pathlib.Path(folder) / name)
    if pretrained is not None and told["guide"] != "network":
        raise ValueError(
            f"pretrained is given, and {folder} tells of the guide {told['guide']!r}; expected None"
        )
    if told["guide"] == "adapter":
        return lora_guide(pipe, told["adapter"], null, **options)
    if told["guide"] == "blur":
        return guide_pipeline(pipe, None, null, **options)
    guide = told["pretrained"] if pretrained is None else pretrained
    if guide is None:
        raise ValueError(f"pretrained is None, and {folder} does not say where the guide is; expected it")
    if isinstance(guide, str | pathlib.Path):
        guide = load_network(getattr(pipe, name), guide, name)
    return guide_pipeline(pipe, guide, null, **options)


def load_network(like, path, name):
    """A network of the class of another, in its dtype and on its device, from this disk; it is not trained.

    path: its folder or name, or those of a pipeline, which has it under `name`, if any. Raises ValueError if
    it is not there.
    """
    given = dict(local_files_only=True, use_safetensors=True, torch_dtype=like.dtype)
    for subfolder in dict.fromkeys((name, None)):
        try:
            with warnings.catch_warnings():  # torch_dtype, which older ones ask for, is soon called dtype
                warnings.simplefilter("ignore", FutureWarning)
                net = like.__class__.from_pretrained(path, subfolder=subfolder, **given)
        except OSError:
            continue
        return net.to(like.device).requires_grad_(False)
    raise ValueError(f"pretrained is {path}, not on this disk; expected a folder, or a name fetched before")

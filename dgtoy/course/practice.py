"""Pipelines of diffusers to practise on: the photo model that ships as a `DiTPipeline`, and each of FAMILIES
of text-to-image models at toy size.
"""

import copy
import logging
import pathlib
import warnings

import torch

from .. import shipped
from ..dit import DiT
from ..dit.convert import to_diffusers
from ..interop.calls import latents_of
from ..interop.checks import network_name
from . import families
from .families import SIDE, diffusers, transformers  # imported there without their warnings

FAMILIES = tuple(families.NETWORKS)
CALLS = {  # what a family's pipeline wants besides a prompt and a weight
    "PixArtAlphaPipeline": dict(clean_caption=False, use_resolution_binning=False),
    "FluxPipeline": dict(negative_prompt=" "),
    "QwenImagePipeline": dict(negative_prompt=" "),
}


# the photo model


class Pixels(diffusers.ModelMixin, diffusers.ConfigMixin):
    """In the place of an autoencoder, for a network of pixels: it decodes z to z."""

    @diffusers.configuration_utils.register_to_config
    def __init__(self, scaling_factor=1.0):
        super().__init__()
        self.register_buffer("place", torch.zeros(1))

    def decode(self, z):
        return diffusers.models.autoencoders.vae.DecoderOutput(sample=z)


def photos(name="photos64"):
    """A photo network that ships, "photos64" or one of `shipped.FINE_TUNES`, as a `DiTPipeline`.

    Its network is a flow and works on pixels: the scheduler is one that knows flows, and the autoencoder does
    nothing.
    """
    net = shipped.load(name).net
    plain = DiT(**{k: v for k, v in net.config.items() if k != "flow"})  # here the scheduler says that
    plain.load_state_dict({k: v for k, v in net.state_dict().items() if k != "flow"})
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    return quiet(diffusers.DiTPipeline(to_diffusers(plain), Pixels(), scheduler))


# text to image


def text_to_image(family, seed=0):
    """A pipeline of a family, one of FAMILIES, that draws SIDE x SIDE pixels of nothing from a prompt.

    seed: of its network's weights; all else is the same for every seed, as in two fine-tunes of one model.
    """
    if family not in FAMILIES:
        raise ValueError(f"family is {family!r}; expected one of {', '.join(FAMILIES)}")
    return quiet(families.pipeline(family, families.network(family, seed)))


def with_lora(pipe, folder, seed=0):
    """Write a random LoRA for a pipeline's network, as its trainers write it.  -> the folder"""
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    part, net = network_name(pipe), copy.deepcopy(network(pipe))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        net.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(net)}
    pipe.save_lora_weights(folder, **layers)
    return pathlib.Path(folder)


def drawn(pipe, w, steps=4):
    """A toy picture at a weight of the prompt, and the network calls a step.  -> (SIDE, SIDE, 3), number"""
    family = type(pipe).__name__
    more = CALLS.get(family, {})
    weight = "true_cfg_scale" if "negative_prompt" in more else "guidance_scale"

    def draw():
        noise = torch.Generator().manual_seed(0)
        size = dict(height=SIDE, width=SIDE, num_inference_steps=steps)
        return pipe("a lighthouse", generator=noise, output_type="np", **size, **more, **{weight: w}).images

    (image,), calls = counted(pipe, draw)
    return image, calls / steps


def counted(pipe, draw):
    """draw() -> what it returns, and how many pictures went through the pipeline's network or its guide"""
    net, total = network(pipe), 0

    def count(module, args, kwargs):
        nonlocal total
        total += len(latents_of(args, kwargs))

    parts = {getattr(net, name, net) for name in ("finetuned", "pretrained")}
    nets = [part for part in parts if isinstance(part, diffusers.ModelMixin)]  # a LoRA's guide is the network
    hooks = [net.register_forward_pre_hook(count, with_kwargs=True) for net in nets]
    try:
        return draw(), total
    finally:
        for hook in hooks:
            hook.remove()


def network(pipe):
    """A pipeline's network: its unet or its transformer."""
    return getattr(pipe, network_name(pipe))


def hush():
    """No progress bars and no advice from the libraries, for a notebook; errors are still shown."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()


def quiet(pipe):
    """A pipeline without a progress bar.  -> the pipeline"""
    pipe.set_progress_bar_config(disable=True)
    return pipe

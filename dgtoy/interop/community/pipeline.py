"""Stable Diffusion XL with Domain Guidance, as a community pipeline of diffusers.

    from dgtoy.interop.community import FOLDER

    pipe = DiffusionPipeline.from_pretrained(
        finetuned, custom_pipeline=FOLDER, trust_remote_code=True, guide=pretrained
    )
    image = pipe(prompt, guidance_scale=5).images[0]

Another Base makes it one for other pipelines. diffusers copies this file and reads it from there.
"""

import inspect
import math

from diffusers import StableDiffusionXLPipeline

from dgtoy.interop import guide_pipeline
from dgtoy.interop.checks import network_name
from dgtoy.interop.loading import load_network
from dgtoy.interop.saved import reference

Base = StableDiffusionXLPipeline


class DomainGuidancePipeline(Base):
    """Base, guided by a second network of the same class.

    guide: a folder or name on this disk, of a pipeline or a network, or either of them; None is no guide.
    domain, interval (in sigma), every: of `dgtoy.interop.guide_pipeline`. They and the folder or name are
    written into model_index.json, never the guide's weights, and read from there.
    """

    def __init__(self, *args, guide=None, domain=1.25, interval=(0.0, None), every=1, **kwargs):
        super().__init__(*args, **kwargs)
        name = network_name(self)
        told = guide if isinstance(guide, str) else reference(guide)
        self.register_to_config(guide=told, domain=domain, interval=tuple(interval), every=every)
        if isinstance(guide, str):
            guide = load_network(getattr(self, name), guide, name)
        if guide is not None:
            levels = tuple(math.inf if level is None else level for level in interval)
            guide_pipeline(self, guide, domain=domain, interval=levels, every=every)


def _signature():
    """Base's parts, by which diffusers knows what to load, and the options above."""
    own = inspect.signature(DomainGuidancePipeline.__init__).parameters
    options = [p for p in own.values() if p.kind is p.KEYWORD_ONLY]
    return inspect.Signature([*inspect.signature(Base.__init__).parameters.values(), *options])


DomainGuidancePipeline.__init__.__signature__ = _signature()

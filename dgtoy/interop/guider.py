"""Domain Guidance as a guider of modular pipelines: `pipe.update_components(guider=DomainGuidance(pretrained,
w))`.

The one module here that imports diffusers when it is imported, as its class is diffusers' own kind. Guiders
are an experimental feature there (extra `dit`).
"""

import pathlib

from ..environment import needs
from .pipelines import call_as

needs("dit", "diffusers")
from diffusers.configuration_utils import register_to_config  # noqa: E402
from diffusers.guiders import ClassifierFreeGuidance  # noqa: E402


class DomainGuidance(ClassifierFreeGuidance):
    """null + w (labelled - null), the null part by the pre-trained network.

    pretrained: that network, or the folder it was saved in; a folder is what the guider's saved configuration
    can hold, so only then it works again after `from_pretrained`. guidance_scale: w, 1 is off. start, stop:
    the share of the steps between which guidance is on. Raises ValueError at the first step for a network of
    another class than the pipeline's.
    """

    @register_to_config
    def __init__(
        self,
        pretrained=None,
        guidance_scale: float = 1.5,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
    ):
        super().__init__(guidance_scale=guidance_scale, start=start, stop=stop, enabled=enabled)
        is_folder = isinstance(pretrained, str | pathlib.Path)
        self.network = None if is_folder else pretrained
        self.before = None  # the pipeline's network and the hook on its forward, while the guide answers
        self.register_to_config(pretrained=str(pretrained) if is_folder else None)

    def prepare_models(self, denoiser):
        """Called before each forward: the second of a step, the null one, goes to the pre-trained network."""
        super().prepare_models(denoiser)
        self.cleanup_models(denoiser)  # a step before may have ended in an error
        if self.is_unconditional:
            guide, hooked = self._guide(denoiser), denoiser.__dict__.get("forward")
            if guide is not denoiser:
                self.before = denoiser, hooked
                denoiser.__dict__["forward"] = lambda *args, **kwargs: call_as(guide, args, kwargs)

    def cleanup_models(self, denoiser):
        """Called after each forward: the pipeline's network is itself again, with the hook on its forward."""
        if self.before is None:
            return
        (network, hooked), self.before = self.before, None
        del network.__dict__["forward"]
        if hooked is not None:
            network.__dict__["forward"] = hooked

    def _guide(self, denoiser):
        if self.network is None:
            if self.config.pretrained is None:
                raise ValueError(
                    "pretrained is missing; expected the pre-trained network, or the folder it was saved in"
                )
            self.network = type(denoiser).from_pretrained(
                self.config.pretrained, local_files_only=True, use_safetensors=True
            )
            self.network.to(denoiser.device, denoiser.dtype).requires_grad_(False)
        if type(self.network) is not type(denoiser):
            came, expected = type(self.network).__name__, type(denoiser).__name__
            raise ValueError(f"pretrained is a {came}; the pipeline's network is a {expected}")
        return self.network

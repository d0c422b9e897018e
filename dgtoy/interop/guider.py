"""Domain Guidance as a guider of modular pipelines: `pipe.update_components(guider=DomainGuidance(pretrained,
w))`.

The one module here that imports diffusers when it is imported, as its class is diffusers' own kind. Guiders
are an experimental feature there (extra `dit`).
"""

import pathlib

from ..environment import needs
from .calls import pipeline_call
from .checks import EVERYWHERE, OPTIONS, as_option, check_pipe
from .guided import DomainGuidedModel
from .loading import load_network

needs("dit", "diffusers")
from diffusers.configuration_utils import register_to_config  # noqa: E402
from diffusers.guiders import ClassifierFreeGuidance  # noqa: E402
from diffusers.modular_pipelines import ComponentSpec, ModularPipelineBlocks  # noqa: E402

COMPONENT = "guide"  # a modular pipeline's second network


class Guide(ModularPipelineBlocks):
    """A block that only says that a modular pipeline has a second network, `guide`, for `DomainGuidance`.

    `blocks.sub_blocks.insert("guide", Guide(UNet2DConditionModel), 0)`; then the pipeline loads it as any
    component, and its index refers to where it was loaded from. network: its class.
    """

    def __init__(self, network):
        super().__init__()
        self.network = network

    @property
    def expected_components(self):
        return [ComponentSpec(COMPONENT, self.network)]

    def __call__(self, components, state):
        return components, state


class DomainGuidance(ClassifierFreeGuidance):
    """null + w (labelled - null), the null part made with the guide, as by `DomainGuidedModel`.

    pretrained: the guide's network; the folder it was saved in, which the guider's saved configuration can
    hold; or None where the pipeline has it as its component `guide` (see `Guide`). guidance_scale: w, 1 is
    off; with `domain` the weight of the prompt. domain, interval (in sigma), every, blur: of
    `DomainGuidedModel`, and may be changed between calls. start, stop: the share of the steps between which
    guidance is on.
    Raises ValueError for an option out of range, and at the first step for a network of another class than
    the pipeline's.
    """

    @register_to_config
    def __init__(
        self,
        pretrained=None,
        guidance_scale: float = 1.5,
        start: float = 0.0,
        stop: float = 1.0,
        enabled: bool = True,
        domain: float | None = None,
        interval: tuple = EVERYWHERE,
        every: int = 1,
        blur: float | None = None,
        guidance_rescale: float = 0.0,
    ):
        super().__init__(guidance_scale, guidance_rescale, start=start, stop=stop, enabled=enabled)
        is_folder = isinstance(pretrained, str | pathlib.Path)
        self.network = None if is_folder else pretrained
        self.null = None  # the guide's own null condition
        self.guided = None  # both networks, once both are known
        self.domain, self.interval, self.every, self.blur = domain, interval, every, blur
        self.patched = None  # the pipeline's network and the hook on its forward, while another answers
        self.register_to_config(pretrained=str(pretrained) if is_folder else None)

    def __setattr__(self, name, value):
        super().__setattr__(name, as_option(name, value))

    def prepare_models(self, denoiser):
        """Called before each forward: what stands for the null one is made with the guide."""
        super().prepare_models(denoiser)
        self.cleanup_models(denoiser)  # a step before may have ended in an error
        if self.num_conditions == 1:
            return
        guided = self._guided(denoiser)
        answer = self._null if self.is_unconditional else guided.answer_labelled
        self.patched = denoiser, denoiser.__dict__.get("forward")

        def forward(*args, **kwargs):
            self.cleanup_models(denoiser)
            return answer(args, kwargs)

        denoiser.__dict__["forward"] = forward

    def _null(self, args, kwargs):
        call = pipeline_call()
        if call:
            check_pipe(call["self"])
        return self.guided.answer_null(args, kwargs, call, self.guidance_scale)

    def cleanup_models(self, denoiser):
        """Called after each forward: the pipeline's network is itself again, with the hook on its forward."""
        if self.patched is None:
            return
        network, hooked = self.patched
        self.patched = None
        del network.__dict__["forward"]
        if hooked is not None:
            network.__dict__["forward"] = hooked

    def _guided(self, denoiser):
        """The pipeline's network and its guide, with the options of now."""
        if self.network is None and self.blur is None:
            self.network = getattr(pipeline_call().get("self"), COMPONENT, None)
        if self.network is None and self.blur is None:
            if self.config.pretrained is None:
                raise ValueError(
                    "pretrained is missing; expected the pre-trained network, the folder it was saved in, "
                    f"or a pipeline with the component {COMPONENT}"
                )
            self.network = load_network(denoiser, self.config.pretrained, None)
        if self.guided is None or self.guided.finetuned is not denoiser:
            self.guided = DomainGuidedModel(denoiser, self.network, self.null, blur=self.blur)
        for name in OPTIONS:
            setattr(self.guided, name, getattr(self, name))
        return self.guided


def replace_guider(pipe, guide, null, domain, **options):
    """Domain Guidance in the place of a modular pipeline's guider, with what that was set to."""
    old = getattr(pipe.guider, "replaced", pipe.guider)
    names = ("guidance_scale", "guidance_rescale", "start", "stop")
    kept = {name: old.config[name] for name in names if name in old.config}
    if old.config.get("use_original_formulation"):  # labelled + w (labelled - null)
        kept["guidance_scale"] += 1
    guider = DomainGuidance(guide, domain=domain, **options, **kept)
    guider.null, guider.replaced = null, old
    pipe.update_components(guider=guider)

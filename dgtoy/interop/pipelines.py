"""Guides put into diffusers pipelines, and taken out again."""

from .checks import EVERYWHERE, check_parts, kind_of, network_name, warn_of_encoders
from .encoders import check_encoders
from .guided import DomainGuidedModel
from .levels import is_flow
from .saved import forget_guide, reference

DOMAIN = 1.25  # the weight of the domain direction where a prompt has one of its own


def guide_pipeline(
    pipe, pretrained=None, null=None, domain="default", interval=EVERYWHERE, every=1, blur=None
):
    """Guide a fine-tuned pipeline by a pre-trained one, or by its network. In place.  -> the pipeline

    pretrained: a pipeline or a network; or none, and blur: a width, for the pipeline's own blurred self.
    domain, by default 1.25 where there is a prompt and None for DiT: with a number the pipeline's
    guidance_scale keeps its meaning and its usual value, as the weight of the prompt, and `domain` is the
    weight of the domain, in three network calls a step; with None the guidance_scale (Flux, Qwen-Image:
    true_cfg_scale) is the weight w of Domain Guidance, to begin at 1.5, in two. null, interval (in sigma),
    every, blur: of `DomainGuidedModel`. Of a modular pipeline the guider is replaced. A guide that is there
    already is replaced; `unguide` gives back what was.
    Raises ValueError if the two differ in network, text encoders, VAE, scheduler or prediction type, or are
    one and the same network. Warns of a text encoder that was trained too: see null.
    """
    name = network_name(pipe)
    guide = getattr(pretrained, name, pretrained)
    if guide is not pretrained:
        check_parts(pipe, pretrained)
        if not null:
            warn_of_encoders(pipe, pretrained)
    if blur is None:
        check_encoders(pipe, null)
    put_guide(pipe, unguided(guide), null, domain, interval=interval, every=every, blur=blur)
    if guide is not pretrained and not hasattr(pipe, "update_components"):
        getattr(pipe, name).source = reference(pretrained)  # the pipeline's own, not a part's folder
    return pipe


def put_guide(pipe, guide, null, domain, **options):
    """A guided network, or guider, in its place in a pipeline.  -> the pipeline"""
    name = network_name(pipe)
    network = unguided(getattr(pipe, name))
    if getattr(pipe, "transformer_2", None) is not None:
        raise ValueError(f"pipe is a {type(pipe).__name__} with a transformer_2; expected one network")
    if domain == "default":
        domain = None if kind_of(network) == "DiTTransformer2DModel" else DOMAIN
    scheduler = getattr(pipe, "scheduler", None)
    levels = options.get("blur") is not None or options.get("interval", EVERYWHERE) != EVERYWHERE
    if scheduler is not None and levels:
        is_flow(scheduler)  # refuses one whose levels are not known
    guided = DomainGuidedModel(network, guide, null, domain, scheduler=scheduler, **options)
    if guide is network:
        raise ValueError("pretrained is the pipeline's own network; expected the one it was tuned from")
    if hasattr(pipe, "update_components"):  # a modular pipeline
        from .guider import replace_guider

        replace_guider(pipe, guide, null, domain, **options)
    else:
        replace_network(pipe, name, guided)
    return pipe


def replace_network(pipe, name, network):
    """Another network in a pipeline; where models are offloaded, it is as well from now on."""
    is_offloaded = bool(getattr(pipe, "_all_hooks", ()))
    if is_offloaded:
        pipe.remove_all_hooks()
    setattr(pipe, name, network)
    if is_offloaded:
        pipe.enable_model_cpu_offload(device=pipe._offload_device)


def unguide(pipe):
    """A pipeline as it was before `guide_pipeline` or `lora_guide`. In place.  -> the pipeline

    Raises ValueError if it is not guided.
    """
    name = network_name(pipe)
    network, guider = getattr(pipe, name), getattr(pipe, "guider", None)
    if hasattr(guider, "replaced"):
        pipe.update_components(guider=guider.replaced)
    elif unguided(network) is not network:
        replace_network(pipe, name, unguided(network))
    else:
        raise ValueError(f"pipe is a {type(pipe).__name__} without a guide; expected a guided one")
    forget_guide(getattr(pipe, name))
    return pipe


def unguided(net):
    """A guided network's fine-tuned one, also from within torch.compile; any other as it is."""
    inner = getattr(net, "_orig_mod", net)
    return inner.finetuned if type(inner) is DomainGuidedModel else net

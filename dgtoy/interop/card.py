"""A model card that says how a pipeline is guided, for the folder or repository that it is saved in."""

from .adapters import WithoutAdapter
from .checks import EVERYWHERE, OPTIONS, kind_of, network_name
from .guided import DomainGuidedModel

OFF = dict(interval=EVERYWHERE, every=1, blur=None)  # not worth a word; domain always is
CARD = """---
library_name: diffusers
{base_model}tags:
- domain-guidance
---

# {title}

A fine-tune, sampled with Domain Guidance: {guide}.

```python
from diffusers import DiffusionPipeline
from dgtoy.interop import {function}

pipe = DiffusionPipeline.from_pretrained("{title}")
{lines}
image = pipe({call}).images[0]
```

| option | value |
|---|---|
{options}

Guidance takes the weights of both models, and so both licences apply to what is made with it. Domain
Guidance: Zhong et al. 2025, [arXiv 2504.01521](https://arxiv.org/abs/2504.01521).
"""


def model_card(pipe, title, base=None):
    """The card of a guided pipeline, as Markdown: which guide, six lines to use it, the options of now.

    title: its name on the hub, or its folder. base: the guide's, by default where it was loaded from. Raises
    ValueError for a pipeline without a guide, or a guide that has no name.
    """
    guided = getattr(pipe, network_name(pipe))
    if type(guided) is not DomainGuidedModel:
        raise ValueError(f"pipe is a {type(pipe).__name__} without a guide; expected a guided one")
    base = base or guided.source
    options = {name: getattr(guided, name) for name in OPTIONS}
    on = {name: value for name, value in options.items() if OFF.get(name, ...) != value}
    given = ", ".join(f"{name}={value}" for name, value in on.items()).replace("inf)", 'float("inf"))')
    if isinstance(guided.pretrained, WithoutAdapter):
        guide, function = "the guide is the same network with its LoRA switched off", "lora_guide"
        lines = f'pipe.load_lora_weights("{title}")\npipe = lora_guide(pipe, {given})'
    elif guided.blur is not None:
        guide, function = "the guide is its own density, blurred", "guide_pipeline"
        lines = f"pipe = guide_pipeline(pipe, {given})"
    elif base is None:
        raise ValueError("base is None, and the guide was made in memory; expected its name or folder")
    else:
        guide, function = f"the guide is [{base}](https://huggingface.co/{base})", "guide_pipeline"
        lines = (
            f'base = DiffusionPipeline.from_pretrained("{base}")\npipe = guide_pipeline(pipe, base, {given})'
        )
    return CARD.format(
        title=title,
        base_model=f"base_model: {base}\n" if base else "",
        guide=guide,
        function=function,
        lines=lines,
        call=_call(guided),
        options="\n".join(f"| {name} | {value} |" for name, value in options.items()),
    )


def _call(guided):
    """What its pipeline is called with: a usual scale of the prompt, or a weight of Domain Guidance alone."""
    scale = guided.layout.scale
    given = ["class_labels" if kind_of(guided) == "DiTTransformer2DModel" else "prompt"]
    if scale == "true_cfg_scale":  # without which these pipelines guide nothing
        given.append('negative_prompt=""')
    return ", ".join([*given, f"{scale}={1.5 if guided.domain is None else 5}"])

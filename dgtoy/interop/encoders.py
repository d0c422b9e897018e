"""Adapters in text encoders: the base is asked about the null prompt as it was read without them."""

import contextlib
import inspect

import torch

from .adapters import adapter_off, peft_layers
from .checks import TEXT_ENCODERS, bare, kind_of, network_name

READ = ("UNet2DConditionModel", "SD3Transformer2DModel")  # networks whose pipelines read prompts again here


def adapted_encoders(pipe, adapter=None):
    """A pipeline's text encoders by name, those in which `adapter` is active, by default any."""
    found = {}
    for name in TEXT_ENCODERS:
        encoder = getattr(pipe, name, None)
        layers = [] if encoder is None else peft_layers(encoder)
        active = {name for m in layers if not m.disable_adapters for name in m.active_adapters}
        if active and adapter in (None, *active):
            found[name] = encoder
    return found


def check_encoders(pipe, null, adapter=None):
    """Raise if an adapter in a text encoder would have read the null prompt that the guide sees.

    Without `null` it is read again at each run where that is known how; what of it is given must be all that
    the network is given.
    """
    encoders, net = adapted_encoders(pipe, adapter), bare(getattr(pipe, network_name(pipe)))
    is_read = kind_of(net) in READ and hasattr(pipe, "encode_prompt")
    if not encoders or (is_read and not null):
        return
    if not null:
        raise _unread(encoders)
    null = null | null.get("added_cond_kwargs", {})
    needed = ["encoder_hidden_states"]
    if "pooled_projections" in inspect.signature(net.forward).parameters:
        needed.append("pooled_projections")
    if getattr(net.config, "addition_embed_type", None) == "text_time":
        needed.append("text_embeds")
    for name in needed:
        if name not in null:
            raise ValueError(
                f"null lacks {name} and {min(encoders)} has an adapter; expected it as read without"
            )


def null_prompt(call, kwargs, adapter=None):
    """The null prompt of a pipeline's call as it is read without the adapter: inputs of the network, {} where
    the adapter makes no difference.

    kwargs: the null half's inputs. Raises ValueError if what the pipeline gives its network is not what its
    text encoders make of the prompts: then it cannot be read again.
    """
    pipe = call.get("self")
    encoders = adapted_encoders(pipe, adapter)
    if not encoders:
        return {}
    net = bare(getattr(pipe, network_name(pipe)))
    if kind_of(net) not in READ or not isinstance(call.get("prompt"), str | list):
        raise _unread(encoders)
    wanted = inspect.signature(pipe.encode_prompt).parameters
    given = {name: call[name] for name in wanted if name in call and not name.endswith("_embeds")}
    given |= dict(do_classifier_free_guidance=True)
    given["lora_scale"] = call.get("lora_scale", call.get("text_encoder_lora_scale"))
    read = lambda: _as_inputs(net, pipe.encode_prompt(**given)[1::2])
    with_adapter = read()
    if not _equal(with_adapter, kwargs):
        raise _unread(encoders)
    with contextlib.ExitStack() as off:
        for encoder in encoders.values():
            off.enter_context(adapter_off(encoder, adapter))
        without = read()
    return {} if _equal(without, with_adapter, 0.0) else without


def _as_inputs(net, prompt):
    """A prompt's hidden states, and its pooled ones if it has any, as inputs of a network."""
    hidden, *pooled = prompt
    inputs = dict(encoder_hidden_states=hidden)
    if pooled and kind_of(net) == "SD3Transformer2DModel":
        inputs["pooled_projections"] = pooled[0]
    elif pooled:
        inputs["added_cond_kwargs"] = dict(text_embeds=pooled[0])
    return inputs


def _equal(inputs, others, tolerance=1e-3):
    """Whether inputs, nested by name, are among others, by default to the rounding of half precision."""
    for name, value in inputs.items():
        other = others.get(name)
        if isinstance(value, dict):
            if not _equal(value, other or {}, tolerance):
                return False
        elif other is None or value.shape != other.shape:
            return False
        elif not torch.allclose(value.float(), other.float(), rtol=tolerance, atol=tolerance):
            return False
    return True


def _unread(encoders):
    """The refusal of an adapter whose null prompt cannot be read again."""
    return ValueError(
        f"null is None and {min(encoders)} has an adapter; expected prompts as text, or the null prompt as "
        "read without it"
    )

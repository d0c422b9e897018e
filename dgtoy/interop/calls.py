"""A pipeline's call of its network: the inputs in it, the answer to it, and who makes it."""

import sys

import torch

from .checks import bare

HOOKS = ("_hf_hook", "_old_forward", "_diffusers_hook")  # what offloading leaves on the module that it moves


def call_as(net, args, kwargs):
    """A network's answer, in the latents' dtype, to inputs of another dtype or device than its own.

    Timesteps keep their dtype. The network moves to the latents' device, unless offloading moves it.
    """
    x, inner = latents_of(args, kwargs), bare(net)
    device, dtype = getattr(inner, "device", x.device), getattr(inner, "dtype", x.dtype)
    if device != x.device and not any(hasattr(m, hook) for m in inner.modules() for hook in HOOKS):
        net.to(x.device)

    def cast(value):
        if value.ndim < 2:  # a timestep
            return value.to(x.device)
        is_real = value.is_floating_point() and dtype.is_floating_point  # weights of 4 bits call theirs uint8
        return value.to(x.device, dtype if is_real else value.dtype)

    out = net(*each_tensor(cast, args), **each_tensor(cast, kwargs))
    return out if sample_of(out).dtype == x.dtype else answer_with(out, sample_of(out).to(x.dtype))


@torch.compiler.disable
def pipeline_call():
    """The variables of the pipeline's method that is calling, with its `self`; {} outside a pipeline."""
    from diffusers import DiffusionPipeline, ModularPipeline

    frame = sys._getframe(1)
    while frame is not None:
        variables = frame.f_locals
        if isinstance(variables.get("self"), DiffusionPipeline):
            return variables
        if isinstance(variables.get("components"), ModularPipeline):
            return dict(self=variables["components"], t=variables.get("t"), modular=True)
        frame = frame.f_back
    return {}


def weight_of(call, name="guidance_scale"):
    """The weight of a pipeline's call, which a callback may have changed; None where it has none."""
    return getattr(call["self"], name, call[name]) if name in call else None


def is_guided_apart(call):
    """Whether a pipeline that calls its branches one by one has guidance on."""
    told = getattr(call["self"], "do_classifier_free_guidance", False)
    return bool(call.get("do_true_cfg", told))


def each_tensor(change, value):
    """Every tensor in nested dicts, lists and tuples changed by a function."""
    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, dict):
        return {k: each_tensor(change, v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(each_tensor(change, v) for v in value)
    return value


def rows_in(value, rows, n):
    """Some rows of every tensor that is as long as the batch of two halves of n."""
    return each_tensor(lambda v: v[rows] if v.ndim and len(v) == 2 * n else v, value)


def rows_of(out, rows):
    """An answer's rows."""
    return answer_with(out, sample_of(out)[rows])


def latents_of(args, kwargs):
    """The noisy latents of a call."""
    return args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))


def with_input(args, kwargs, x, time):
    """A call's inputs with other latents and another time, in the network's own units, in their places."""
    old = kwargs["timestep"] if "timestep" in kwargs else args[1]
    if torch.is_tensor(old) and (old != old.flatten()[:1]).any():
        raise ValueError("blur is on, and the timesteps of a picture differ; expected one")
    dtype = old.dtype if torch.is_tensor(old) and old.is_floating_point() else torch.float32
    time = torch.full(old.shape if torch.is_tensor(old) else (), time, dtype=dtype, device=x.device)
    args = (x, time, *args[2:])[: len(args)]
    new = dict(hidden_states=x, sample=x, timestep=time)
    return args, kwargs | {name: value for name, value in new.items() if name in kwargs}


def unlabelled(net, kwargs, rows=slice(None)):
    """The inputs with a DiT's own null label in `rows`, where its pipeline takes 1000; others as they are."""
    null = getattr(bare(net).config, "num_embeds_ada_norm", None)
    if kwargs.get("class_labels") is None or null is None:
        return kwargs
    labels = kwargs["class_labels"].clone()
    labels[rows] = null
    return kwargs | dict(class_labels=labels)


def sample_of(out):
    """The prediction in a network's answer, a tuple or an output object."""
    return out[0] if isinstance(out, tuple) else out.sample


def joined(one, other):
    """Two halves' outputs as one."""
    return answer_with(one, torch.cat([sample_of(one), sample_of(other)]))


def answer_with(out, sample):
    """A network's answer with another prediction in it."""
    return (sample, *out[1:]) if isinstance(out, tuple) else type(out)(sample=sample)

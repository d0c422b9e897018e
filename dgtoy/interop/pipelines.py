"""Domain Guidance for diffusers pipelines: the fine-tuned network and its guide in the place of one network.

Pipelines with classifier-free guidance compute null + w (labelled - null), w their `guidance_scale`. They
call their network on a batch of the two halves, or once for each. Here the labelled half goes to the
fine-tuned network, and what stands for the null half is made with the guide, so that the pipeline's own
formula gives Domain Guidance or a point of the guidance plane.

Whether guidance is on, of how many branches and at which timestep is read where it is decided: in the
variables of the pipeline's call. So it holds for every pipeline that the network is in, `from_pipe` and
copies included.
"""

import contextlib
import copy
import math
import numbers
import re
import sys
import warnings

import torch
from torch import nn

from ..samplers import check_interval
from .adapters import BatchMismatch, WithoutAdapter, mixed_batch, sole_adapter
from .checks import (
    ORDER,
    bare,
    check_encoders,
    check_networks,
    check_null,
    check_parts,
    kind_of,
    network_name,
)
from .levels import blurred_prediction, is_flow, t_to_sigma

DOMAIN = 1.25  # the weight of the domain direction where a prompt has one of its own
EVERYWHERE = (0.0, math.inf)
OPTIONS = ("domain", "interval", "every", "blur")
# methods that change how a network computes or is held: the guide follows, adapters apart
CHANGES = re.compile(r"(enable|disable|set|reset|fuse|unfuse|compile)_(?!adapter|lora)")
HOOKS = ("_hf_hook", "_old_forward", "_diffusers_hook")  # what offloading leaves on the module that it moves


class DomainGuidedModel(nn.Module):
    """Takes the place of a pipeline's network: `pipe.unet = DomainGuidedModel(pipe.unet, pretrained)`.

    finetuned, pretrained: networks of one class (a key of ORDER), also within torch.compile, DDP, FSDP or
    peft. null: inputs by name, such as `encoder_hidden_states` (1, ...) or `added_cond_kwargs` with
    `text_embeds` (1, ...), that the guide sees in place of the pipeline's own null condition. DiT's guide
    always sees its own null label, num_embeds_ada_norm.

    These four may be changed between calls, `pipe.unet.domain = 1.3`:
    domain: None, and guidance_scale is the weight w of Domain Guidance, D_pre + w (D_c - D_pre), in two
    network calls a step. Or a weight a of the domain direction, and guidance_scale is the weight b of the
    prompt's or class's, D_pre + a (D_null - D_pre) + b (D_c - D_null), in three; a = 1 takes two and is
    classifier-free guidance.
    interval: the noise levels sigma, of x0 + sigma eps in the units of the latents, between which guidance is
    on; outside the fine-tuned network is called alone. every: call the guide in every so many-th step and use
    its last answer in between.
    blur: in place of `pretrained` the guide is the fine-tuned network's own labelled density blurred by
    `blur`, in units of the latents (`dgtoy.blurred`); then D_null + b (D_c - D_null) + (a - 1) (D_c - D_blur)
    with `domain`, D_blur + w (D_c - D_blur) without.

    scheduler: tells the noise levels of calls from outside a pipeline; within, the pipeline's does. With
    guidance off it is the fine-tuned network, and a warning says so where w is not 1. A pipeline with other
    branches than two is refused at its first step. A guide in another dtype or on another device is given the
    inputs in its own dtype, and moved. What a pipeline asks of its network besides a call, saving included,
    is answered by the fine-tuned one; what changes how a network computes (FreeU, attention processors,
    casting) is done to both. Called outside a pipeline, an even batch with equal halves is taken for a guided
    one. Raises ValueError for an option out of range and for networks that no pipeline here can serve
    together.
    """

    def __init__(
        self,
        finetuned,
        pretrained=None,
        null=None,
        domain=None,
        interval=EVERYWHERE,
        every=1,
        blur=None,
        scheduler=None,
    ):
        super().__init__()
        if (pretrained is None) == (blur is None):
            came = "neither came" if blur is None else "both came"
            raise ValueError(f"pretrained, blur: {came}; expected one of the two")
        pretrained = finetuned if pretrained is None else pretrained
        check_networks(finetuned, pretrained)
        check_null(null or {}, finetuned)
        self.order = ORDER[kind_of(finetuned)]
        self.finetuned, self.pretrained, self.null = finetuned, pretrained, null or {}
        self.domain, self.interval, self.every, self.blur = domain, interval, every, blur
        self.scheduler = scheduler
        self.steps, self.last_time, self.last_guide = 0, -math.inf, None  # of this run, for `every`
        self.branch, self.last_labelled = "cond", None  # where the branches are called apart
        self.warned = None  # the last warning, until guidance is on again
        self.__dict__["__module__"] = self.__class__.__module__  # a pipeline writes it down, with __class__

    @property
    def __class__(self):
        """The fine-tuned network's: pipelines look at it when they save and check their parts."""
        return bare(self.finetuned).__class__

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in HOOKS:
                raise
            of_finetuned = getattr(bare(super().__getattr__("finetuned")), name)
        if not CHANGES.match(name) or not self._has_second():
            return of_finetuned

        def change_both(*args, **kwargs):
            getattr(self.pretrained, name)(*map(copy.copy, args), **kwargs)  # a dict of processors is emptied
            return of_finetuned(*args, **kwargs)

        return change_both

    def __setattr__(self, name, value):
        if name in OPTIONS:
            check_option(name, value)
        super().__setattr__(name, value)

    def __repr__(self):
        guide = kind_of(self.pretrained)
        if self.blur is not None or self.pretrained is self.finetuned:
            guide = "itself"
        elif isinstance(self.pretrained, WithoutAdapter):
            guide = f"itself without adapter {self.pretrained.adapter or '(any)'}"
        options = ", ".join(f"{name}={getattr(self, name)}" for name in OPTIONS)
        calls = 2 if self.domain in (None, 1) else 3
        return (
            f"DomainGuidedModel({kind_of(self)} guided by {guide}, {options}: {calls} network calls a step)"
        )

    def __reduce_ex__(self, protocol):
        """Copied and pickled as what it is, not as its `__class__`."""
        return DomainGuidedModel.__new__, (DomainGuidedModel,), self.__dict__

    def _has_second(self):
        """Whether the guide is a second network."""
        return not isinstance(self.pretrained, WithoutAdapter) and self.pretrained is not self.finetuned

    def compile(self, *args, **kwargs):
        """Compile both networks in place."""
        self.finetuned.compile(*args, **kwargs)
        if self._has_second():
            self.pretrained.compile(*args, **kwargs)

    @contextlib.contextmanager
    def cache_context(self, name):
        """Which branch the next call is: "cond" or "uncond"."""
        self.branch = name
        with bare(self.finetuned).cache_context(name):
            try:
                yield
            finally:
                self.branch = "cond"

    @torch.compiler.disable(recursive=False)  # it reads its callers' variables
    def forward(self, *args, **kwargs):
        """As the network's own forward, answered half by half where guidance is on."""
        call = pipeline_call()
        if self.order == "apart":
            return self._apart(args, kwargs, call)
        x = _latents(args, kwargs)
        if not self._is_guided(x, kwargs, call):
            return self.finetuned(*args, **kwargs)
        n = len(x) // 2
        labelled, null = self._ordered(slice(n), slice(n, None))
        if self._is_on(args, kwargs, call):
            main, own, guide = self._three(args, kwargs, labelled, null, n, call)
            null_part, labelled_part = self._parts(main, own, guide, _weight(call))
        else:  # nothing is added
            null_part = labelled_part = self.finetuned(
                *_rows(args, labelled, n), **_rows(kwargs, labelled, n)
            )
        return _joined(*self._ordered(labelled_part, null_part))

    @torch.compiler.disable(recursive=False)
    def _apart(self, args, kwargs, call):
        """The answer of one branch, the labelled one first."""
        null = call.get("negative_prompt_embeds")
        if self.branch == "cond" and (null is None or kwargs.get("encoder_hidden_states") is not null):
            if call and not call.get("do_true_cfg"):
                self._warn(call["self"], "true_cfg_scale", call.get("true_cfg_scale"))
            return self.answer_labelled(args, kwargs)
        self.warned = None
        return self.answer_null(args, kwargs, call, call.get("true_cfg_scale"))

    def answer_labelled(self, args, kwargs):
        """The labelled branch of two that are called apart."""
        main = self.finetuned(*args, **kwargs)
        self.last_labelled = args, kwargs, main
        return main

    @torch.compiler.disable(recursive=False)
    def answer_null(self, args, kwargs, call, w):
        """What stands for the null branch in null + w (labelled - null), after `answer_labelled`."""
        (args_c, kwargs_c, main), self.last_labelled = self.last_labelled, None
        if not self._is_on(args, kwargs, call):
            return main
        if self.domain is not None and w is None:
            raise ValueError(
                f"domain is {self.domain}; expected None outside a pipeline: its scale is needed"
            )
        own = None if self.domain is None else self.finetuned(*args, **_unlabelled(self.finetuned, kwargs))
        labelled, null = (args_c, kwargs_c), (args, kwargs)
        return self._parts(main, own, self._guide(main, labelled, null, call), w)[0]

    @torch.compiler.disable
    def _is_guided(self, x, kwargs, call):
        """Whether a call is on a labelled and a null half, as the pipeline that makes it has it."""
        latents = call.get("latents", call.get("intermediate_images"))
        if "modular" in call:
            raise ValueError(
                "the network of a modular pipeline is guided; expected guide_pipeline(pipe, ...)"
            )
        if latents is None:  # called from elsewhere
            n = len(x) // 2
            return len(x) % 2 == 0 and bool((x[:n] == x[n:]).all())
        pipe, w = call["self"], _weight(call)
        told = call.get("do_classifier_free_guidance", getattr(pipe, "do_classifier_free_guidance", None))
        if not (told if told is not None else w is None or w > 1):
            self._warn(pipe, "guidance_scale", w)
            return False
        if len(x) <= len(latents) and (told is None or kwargs.get("skip_layers")):
            return False  # one branch by itself
        more = call.get("do_self_attention_guidance")  # its third branch comes by itself
        if w is None or more or len(x) != 2 * len(latents):
            came = "without a guidance_scale" if w is None else f"{len(x)} rows for {len(latents)} images"
            came = "a third time" if more else came
            raise ValueError(
                f"a {type(pipe).__name__} calls its network {came}; expected two branches, labelled and null"
            )
        self.warned = None
        return True

    def _warn(self, pipe, name, w):
        """Say once that a pipeline leaves its guide out, unless that is what w = 1 asks for."""
        text = f"{name} is {w}: this {type(pipe).__name__} is not guided; expected {name} above 1"
        if self.order == "apart":
            text += " and a negative prompt (guidance_scale is not w here)"
        if text != self.warned and (w != 1 or self.order == "apart"):
            warnings.warn(text, stacklevel=2)
        self.warned = text

    def _ordered(self, labelled, null):
        """The two halves in the pipeline's order; also the two halves in that order as labelled and null."""
        return (labelled, null) if self.order == "first" else (null, labelled)

    def _time(self, args, kwargs, call):
        """The timestep of a call, in the scheduler's units."""
        time = call.get("t")
        if time is None:
            time = kwargs["timestep"] if "timestep" in kwargs else args[1]
            time = time * 1000 if self.order == "apart" else time
        return float(time.flatten()[0]) if torch.is_tensor(time) else float(time)

    def _scheduler(self, call):
        return getattr(call.get("self"), "scheduler", self.scheduler)

    @torch.compiler.disable
    def _is_on(self, args, kwargs, call):
        """Whether guidance is on at this call's noise level; without an interval no device is waited for."""
        if tuple(self.interval) == EVERYWHERE:
            return True
        return is_inside(self.interval, self._time(args, kwargs, call), self._scheduler(call))

    @torch.compiler.disable(recursive=False)
    def _three(self, args, kwargs, labelled, null, n, call):
        """Labelled, own null and the guide's answer for a batch of two halves; None where none is needed."""
        adapter = self._mixable_adapter()
        if adapter:  # one forward for all
            with contextlib.suppress(BatchMismatch):
                return self._mixed(args, kwargs, labelled, null, n, adapter)
        half = lambda rows: (_rows(args, rows, n), _rows(kwargs, rows, n))
        if self.domain is None:
            (args_c, kwargs_c), own = half(labelled), None
            main = self.finetuned(*args_c, **kwargs_c)
        else:
            both = self.finetuned(*args, **_unlabelled(self.finetuned, kwargs, null))
            main, own = _rows_of(both, labelled), _rows_of(both, null)
        return main, own, self._guide(main, half(labelled), half(null), call)

    def _mixed(self, args, kwargs, labelled, null, n, adapter):
        """The same by one forward, in which the rows of the guide do without the adapter."""
        order = [labelled, null] if self.domain is None else [labelled, null, null]
        rows = torch.cat([torch.arange(2 * n)[part] for part in order])
        names = [adapter] * (len(rows) - n) + ["__base__"] * n
        args, kwargs = _rows(args, rows, n), _rows(kwargs, rows, n)
        with mixed_batch(self.finetuned, names):
            out = self.finetuned(*args, **_unlabelled(self.finetuned, kwargs, slice(n, None)))
        main, *own, guide = (_rows_of(out, slice(i, i + n)) for i in range(0, len(rows), n))
        return main, own[0] if own else None, guide

    def _mixable_adapter(self):
        """The LoRA's name if one forward can serve both networks, or None.

        Then the guide is the fine-tuned network without its adapter, and sees what the pipeline gives.
        """
        same = isinstance(self.pretrained, WithoutAdapter) and self.pretrained.net is self.finetuned
        if not same or self.null or self.domain == 1 or self.every > 1:
            return None
        return sole_adapter(self.finetuned, self.pretrained.adapter)

    def _parts(self, main, own, guide, w):
        """What stands for the null and for the labelled half, given the pipeline's weight if it is known."""
        if self.domain is None:
            return guide, main
        if self.domain == 1:  # the line of classifier-free guidance
            return own, main
        D_c, D_null, D_guide = (_sample(out) for out in (main, own, guide))
        shift = (self.domain - 1) * ((D_null if self.blur is None else D_c) - D_guide)
        if w is None:  # outside a pipeline: both halves are moved
            return _answer(own, D_null + shift), _answer(main, D_c + shift)
        return _answer(own, D_null - shift / (w - 1)), main

    def _guide(self, main, labelled, null, call):
        """The guide's answer, its last one where it rests; None where it has no weight."""
        if self.domain == 1:
            return None
        if self.every == 1:
            return self._call_guide(main, labelled, null, call)
        time = self._time(*null, call)
        if time >= self.last_time:  # another run, or its first step
            self.steps = 0
        self.last_time = time
        if self.steps % self.every == 0 or _sample(self.last_guide).shape != _sample(main).shape:
            self.last_guide = self._call_guide(main, labelled, null, call)
        self.steps += 1
        return self.last_guide

    def _call_guide(self, main, labelled, null, call):
        """The guide's answer to the null half, with its own null condition; blurred, to the labelled half."""
        if self.blur is not None:
            return self._blurred(main, *labelled, call)
        args, kwargs = null
        n = len(_sample(main))
        own = each_tensor(lambda v: v.expand(n, *v.shape[1:]), self.null)
        for name in own:
            own[name] = kwargs[name] | own[name] if isinstance(own[name], dict) else own[name]
        return call_as(self.pretrained, args, _unlabelled(self.pretrained, kwargs) | own)

    @torch.compiler.disable(recursive=False)
    def _blurred(self, main, args, kwargs, call):
        """The fine-tuned network's prediction for its own density blurred by `blur`."""
        scheduler, time = self._scheduler(call), self._time(args, kwargs, call)
        t, r, k, c = blurred_prediction(level(time, scheduler), self.blur, scheduler)
        x, like = _latents(args, kwargs), _sample(main)
        axis = 1 if x.ndim > 3 else -1  # of the channels: (B, C, H, W), or tokens (B, L, C)
        channels = min(x.shape[axis], like.shape[axis])
        latents, more = x.split([channels, x.shape[axis] - channels], axis)  # masks, say, come behind
        args, kwargs = _with_input(args, kwargs, torch.cat([r * latents, more], axis), t, self.order)
        out = self.finetuned(*args, **kwargs)
        prediction, variance = _sample(out).split([channels, like.shape[axis] - channels], axis)
        return _answer(out, torch.cat([k * prediction - c * latents, variance], axis))


def guide_pipeline(
    pipe,
    pretrained=None,
    null=None,
    domain="default",
    interval=EVERYWHERE,
    every=1,
    blur=None,
):
    """Guide a fine-tuned pipeline by a pre-trained one, or by its network. In place.  -> the pipeline

    pretrained: a pipeline or a network; or none, and blur: a width, for the pipeline's own blurred self.
    domain, by default 1.25 where there is a prompt and None for DiT: with a number the pipeline's
    guidance_scale keeps its meaning and its usual value, as the weight of the prompt, and `domain` is the
    weight of the domain, in three network calls a step; with None the guidance_scale (Flux, Qwen-Image:
    true_cfg_scale) is the weight w of Domain Guidance, best near 1.5, in two. null, interval (in sigma),
    every, blur: of `DomainGuidedModel`. Of a modular pipeline the guider is replaced. A guide that is there
    already is replaced; `unguide` gives back what was.
    Raises ValueError if the two differ in network, text encoders, VAE, scheduler or prediction type.
    """
    name = network_name(pipe)
    guide = getattr(pretrained, name, pretrained)
    if guide is not pretrained:
        check_parts(pipe, pretrained)
    if blur is None:
        check_encoders(pipe, null)
    return put_guide(pipe, unguided(guide), null, domain, interval=interval, every=every, blur=blur)


def put_guide(pipe, guide, null=None, domain="default", **options):
    """A guided network, or guider, in its place in a pipeline.  -> the pipeline"""
    name = network_name(pipe)
    network = unguided(getattr(pipe, name))
    if domain == "default":
        domain = None if kind_of(network) == "DiTTransformer2DModel" else DOMAIN
    scheduler = getattr(pipe, "scheduler", None)
    if scheduler is not None and options.get("blur") is not None:
        is_flow(scheduler)  # refuses one whose levels are not known
    guided = DomainGuidedModel(network, guide, null, domain, scheduler=scheduler, **options)
    if hasattr(pipe, "update_components"):  # a modular pipeline
        from .guider import replace_guider

        replace_guider(pipe, guide, null, domain, **options)
    else:
        setattr(pipe, name, guided)
    return pipe


def unguide(pipe):
    """A pipeline as it was before `guide_pipeline` or `lora_guide`. In place.  -> the pipeline

    Raises ValueError if it is not guided.
    """
    name = network_name(pipe)
    network, guider = getattr(pipe, name), getattr(pipe, "guider", None)
    if hasattr(guider, "replaced"):
        pipe.update_components(guider=guider.replaced)
    elif unguided(network) is not network:
        setattr(pipe, name, unguided(network))
    else:
        raise ValueError(f"pipe is a {type(pipe).__name__} without a guide; expected a guided one")
    return pipe


def unguided(net):
    """A guided network's fine-tuned one, also from within torch.compile; any other as it is."""
    inner = getattr(net, "_orig_mod", net)
    return inner.finetuned if type(inner) is DomainGuidedModel else net


def check_option(name, value):
    """Raise ValueError for a value that `domain`, `interval`, `every` or `blur` cannot have."""
    if name == "interval":
        check_interval(value)
    finite = isinstance(value, numbers.Real) and math.isfinite(value)
    if name == "domain" and value is not None and not finite:
        raise ValueError(f"domain is {value}; expected a finite number, or None")
    if name == "blur" and value is not None and not (finite and value > 0):
        raise ValueError(f"blur is {value}; expected a finite width above 0, or None")
    if name == "every" and not (isinstance(value, numbers.Integral) and value >= 1):
        raise ValueError(f"every is {value}; expected 1 or more")


def level(t, scheduler):
    """The noise level sigma of a timestep, a number."""
    if scheduler is None:
        raise ValueError("scheduler is None; expected the pipeline's, for `interval` and `blur`")
    return t_to_sigma(t, scheduler).item()


def is_inside(interval, t, scheduler):
    """Whether the noise level of a timestep lies in an interval, ends included."""
    return interval[0] <= level(t, scheduler) <= interval[1]


def call_as(net, args, kwargs):
    """A network's answer, in the latents' dtype, to inputs of another dtype or device than its own.

    Timesteps keep their dtype. The network moves to the latents' device, unless offloading moves it.
    """
    x, inner = _latents(args, kwargs), bare(net)
    device, dtype = getattr(inner, "device", x.device), getattr(inner, "dtype", x.dtype)
    if device != x.device and not any(hasattr(m, hook) for m in inner.modules() for hook in HOOKS):
        net.to(x.device)

    def cast(value):
        if value.ndim < 2:  # a timestep
            return value.to(x.device)
        return value.to(x.device, dtype if value.is_floating_point() else value.dtype)

    out = net(*each_tensor(cast, args), **each_tensor(cast, kwargs))
    return out if _sample(out).dtype == x.dtype else _answer(out, _sample(out).to(x.dtype))


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


def _weight(call):
    """The pipeline's guidance_scale, which a callback may have changed; None where it has none."""
    return (
        getattr(call["self"], "guidance_scale", call["guidance_scale"]) if "guidance_scale" in call else None
    )


def each_tensor(change, value):
    """Every tensor in nested dicts, lists and tuples changed by a function."""
    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, dict):
        return {k: each_tensor(change, v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(each_tensor(change, v) for v in value)
    return value


def _rows(value, rows, n):
    """Some rows of every tensor that is as long as the batch of two halves of n."""
    return each_tensor(lambda v: v[rows] if v.ndim and len(v) == 2 * n else v, value)


def _rows_of(out, rows):
    """An answer's rows."""
    return _answer(out, _sample(out)[rows])


def _latents(args, kwargs):
    """The noisy latents of a call."""
    return args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))


def _with_input(args, kwargs, x, t, order):
    """A call's inputs with other latents and another timestep in their places."""
    old = kwargs["timestep"] if "timestep" in kwargs else args[1]
    dtype = old.dtype if torch.is_tensor(old) and old.is_floating_point() else torch.float32
    shape = old.shape if torch.is_tensor(old) else ()
    time = torch.full(shape, t / 1000 if order == "apart" else t, dtype=dtype, device=x.device)
    args = (x, time, *args[2:])[: len(args)]
    new = dict(hidden_states=x, sample=x, timestep=time)
    return args, kwargs | {name: value for name, value in new.items() if name in kwargs}


def _unlabelled(net, kwargs, rows=slice(None)):
    """The inputs with a DiT's own null label in `rows`, where its pipeline takes 1000; others as they are."""
    null = getattr(bare(net).config, "num_embeds_ada_norm", None)
    if kwargs.get("class_labels") is None or null is None:
        return kwargs
    labels = kwargs["class_labels"].clone()
    labels[rows] = null
    return kwargs | dict(class_labels=labels)


def _sample(out):
    """The prediction in a network's answer, a tuple or an output object."""
    return out[0] if isinstance(out, tuple) else out.sample


def _joined(one, other):
    """Two halves' outputs as one."""
    return _answer(one, torch.cat([_sample(one), _sample(other)]))


def _answer(out, sample):
    """A network's answer with another prediction in it."""
    return (sample, *out[1:]) if isinstance(out, tuple) else type(out)(sample=sample)

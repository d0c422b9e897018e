"""Domain Guidance for diffusers pipelines: the fine-tuned and the pre-trained network in the place of one.

Pipelines with classifier-free guidance call their network on a batch of two halves, labelled and null, or,
some, once for each. Here the labelled half goes to the fine-tuned network and the null half to the
pre-trained one, so that `guidance_scale` means w: null + w (labelled - null).

Whether guidance is on, and of how many branches, is read where it is decided: in the variables of the
pipeline's call. So it holds for every pipeline that the network is in, `from_pipe` and copies included.
"""

import contextlib
import copy
import inspect
import math
import re
import sys
import warnings

import torch
from torch import nn

from .adapters import BatchMismatch, WithoutAdapter, mixed_batch, sole_adapter

ORDER = {  # class of the network: where its pipelines put the labelled half
    "DiTTransformer2DModel": "first",
    "UNet2DConditionModel": "second",
    "PixArtTransformer2DModel": "second",
    "SD3Transformer2DModel": "second",
    "FluxTransformer2DModel": "apart",  # two calls, told apart by `cache_context`
}
# what two networks must have in common for one pipeline to serve both
SHARED = (
    "in_channels",
    "out_channels",
    "sample_size",
    "cross_attention_dim",
    "joint_attention_dim",
    "caption_channels",
    "pooled_projection_dim",
    "addition_embed_type",
    "time_cond_proj_dim",
)
# the first that a network has is the width of its text
WIDTHS = ("caption_channels", "joint_attention_dim", "cross_attention_dim")
TEXT = ("hidden_size", "d_model", "vocab_size")
WRAPPERS = {  # what a network may be wrapped in, by an attribute: what to give instead
    "_orig_mod": "net.compile(), which compiles in place",
    "get_base_model": "what its get_base_model() returns",
    "module": "its module",
}
# methods that change how a network computes or is held: the guide follows, adapters apart
CHANGES = re.compile(r"(enable|disable|set|reset|fuse|unfuse|compile)_(?!adapter|lora)")
PARTS = {  # what the parts around two networks must have in common
    "scheduler": (
        "prediction_type",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "trained_betas",
        "rescale_betas_zero_snr",
        "num_train_timesteps",
        "shift",
    ),
    "vae": ("latent_channels", "scaling_factor", "shift_factor", "block_out_channels"),
    "text_encoder": TEXT,
    "text_encoder_2": TEXT,
    "text_encoder_3": TEXT,
}


class DomainGuidedModel(nn.Module):
    """Takes the place of a pipeline's network: `pipe.unet = DomainGuidedModel(pipe.unet, pretrained)`.

    finetuned, pretrained: networks of one class (a key of ORDER). null: inputs by name, such as
    `encoder_hidden_states` (1, ...), that the guide sees in place of the pipeline's own null condition. DiT's
    guide always sees its own null label, num_embeds_ada_norm. domain: a weight a of the domain direction of
    its own; guidance_scale is then the weight b of the class direction on the guidance plane, D_pre + a
    (D_null - D_pre) + b (D_c - D_null), in three calls. interval: the timesteps between which guidance is on
    (outside the guide is not called). every: call the guide in every so many-th step and use its last answer
    in between.

    With guidance off it is the fine-tuned network, and a warning says so where w is not 1. A pipeline with
    other branches than two is refused at its first step. A guide in another dtype or on another device is
    given the inputs in its own dtype, and moved. What a pipeline asks of its network besides a call, saving
    included, is answered by the fine-tuned one, so a pipeline saves as it did before; what changes how a
    network computes (FreeU, attention processors, casting) is done to both. Called outside a pipeline, an
    even batch with equal halves is taken for a guided one.
    Raises ValueError for networks that no pipeline here can serve together.
    """

    def __init__(self, finetuned, pretrained, null=None, domain=None, interval=(0.0, math.inf), every=1):
        super().__init__()
        _check_networks(finetuned, pretrained)
        _check_null(null or {}, finetuned)
        if (domain is not None and not math.isfinite(domain)) or every < 1 or not interval[0] < interval[1]:
            raise ValueError(
                f"domain, every, interval are {domain}, {every}, {interval}; "
                "expected finite or None, 1 or more, low < high"
            )
        self.order = ORDER[finetuned.__class__.__name__]
        if domain is not None and self.order == "apart":
            raise ValueError(
                f"domain is {domain}; expected None for a {finetuned.__class__.__name__}, "
                "whose pipeline calls the branches apart"
            )
        self.finetuned, self.pretrained, self.null = finetuned, pretrained, null or {}
        self.domain, self.interval, self.every = domain, interval, every
        self.steps, self.last_time, self.last_guide = 0, -math.inf, None  # of this run, for `every`
        self.branch, self.last_main = "cond", None  # where the branches are called apart
        self.warned = None  # the last warning, until guidance is on again
        self.__dict__["__module__"] = (
            finetuned.__class__.__module__
        )  # a pipeline writes it down, with __class__

    @property
    def __class__(self):
        """The fine-tuned network's: pipelines look at it when they save and check their parts."""
        return self.finetuned.__class__

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            of_finetuned = getattr(super().__getattr__("finetuned"), name)
        if not CHANGES.match(name) or isinstance(self.pretrained, WithoutAdapter):
            return of_finetuned

        def change_both(*args, **kwargs):
            getattr(self.pretrained, name)(*map(copy.copy, args), **kwargs)  # a dict of processors is emptied
            return of_finetuned(*args, **kwargs)

        return change_both

    def __reduce_ex__(self, protocol):
        """Copied and pickled as what it is, not as its `__class__`."""
        return DomainGuidedModel.__new__, (DomainGuidedModel,), self.__dict__

    def compile(self, *args, **kwargs):
        """Compile both networks in place."""
        self.finetuned.compile(*args, **kwargs)
        if not isinstance(self.pretrained, WithoutAdapter):
            self.pretrained.compile(*args, **kwargs)

    @contextlib.contextmanager
    def cache_context(self, name):
        """Which branch the next call is: "cond" or "uncond"."""
        self.branch = name
        with self.finetuned.cache_context(name):
            try:
                yield
            finally:
                self.branch = "cond"

    @torch.compiler.disable(recursive=False)  # it reads its callers' variables
    def forward(self, *args, **kwargs):
        """As the network's own forward. A call on two halves is answered half by half."""
        pipeline = _pipeline_call()
        if self.order == "apart":
            return self._apart(args, kwargs, pipeline)
        x = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        if not self._is_guided(x, pipeline):
            return self.finetuned(*args, **kwargs)
        n, adapter = len(x) // 2, self._mixable_adapter()
        halves = [[_rows(v, rows, 2 * n) for v in (args, kwargs)] for rows in (slice(n), slice(n, None))]
        labelled, null = self._ordered(*halves)
        if adapter and self._is_on(*null):
            names = self._ordered([adapter] * n, ["__base__"] * n)
            nulls = slice(n, None) if self.order == "first" else slice(n)
            with contextlib.suppress(BatchMismatch), mixed_batch(self.finetuned, names[0] + names[1]):
                return self.finetuned(*args, **_unlabelled(self.finetuned, kwargs, nulls))
        main = self.finetuned(*labelled[0], **labelled[1])
        guide = main  # outside the interval: nothing is added
        if self._is_on(*null):
            guide, main = self._plane_or_line(main, *null, n)
        return _joined(*self._ordered(main, guide))

    @torch.compiler.disable
    def _is_guided(self, x, pipeline):
        """Whether a call is on a labelled and a null half, as the pipeline that makes it has it."""
        latents = pipeline.get("latents", pipeline.get("intermediate_images"))
        if latents is None:  # called from elsewhere
            n = len(x) // 2
            return len(x) % 2 == 0 and bool((x[:n] == x[n:]).all())
        pipe, w = pipeline["self"], pipeline.get("guidance_scale")
        is_on = pipeline.get("do_classifier_free_guidance", w is None or w > 1)
        if not getattr(pipe, "do_classifier_free_guidance", is_on):
            self._warn(pipe, "guidance_scale", w)
            return False
        if len(x) <= len(latents):  # one branch by itself
            return False
        if w is None or len(x) != 2 * len(latents):
            came = "without a guidance_scale" if w is None else f"{len(x)} rows for {len(latents)} images"
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

    def _mixable_adapter(self):
        """The LoRA's name if one forward can serve both halves, or None.

        Then the guide is the fine-tuned network without its adapter, and sees what the pipeline gives.
        """
        same = isinstance(self.pretrained, WithoutAdapter) and self.pretrained.net is self.finetuned
        if not same or self.null or self.domain is not None or self.every > 1:
            return None
        return sole_adapter(self.finetuned, self.pretrained.adapter)

    def _is_on(self, args, kwargs):
        """Whether guidance is on at this call's timestep; without an interval no device is waited for."""
        everywhere = self.interval == (0.0, math.inf)
        return everywhere or self.interval[0] <= _timestep(args, kwargs) <= self.interval[1]

    def _plane_or_line(self, main, args, kwargs, n):
        """What stands for the null and for the labelled half."""
        if self.domain is None:
            return self._guide(main, args, kwargs, n), main
        null = self.finetuned(*args, **_unlabelled(self.finetuned, kwargs))
        if self.domain == 1:  # the line of classifier-free guidance
            return null, main
        return _on_plane(self._guide(main, args, kwargs, n), null, main, self.domain)

    def _guide(self, main, args, kwargs, n):
        """The guide's answer for the null half, or its last one where it rests."""
        if self.every == 1:
            return self._call_guide(args, kwargs, n)
        time = _timestep(args, kwargs)
        if time >= self.last_time:  # another run, or its first step
            self.steps = 0
        self.last_time = time
        if self.steps % self.every == 0 or _sample(self.last_guide).shape != _sample(main).shape:
            self.last_guide = self._call_guide(args, kwargs, n)
        self.steps += 1
        return self.last_guide

    def _call_guide(self, args, kwargs, n):
        """The guide's answer for the null half, with its own null condition."""
        own = {name: value.expand(n, *value.shape[1:]) for name, value in self.null.items()}
        return call_as(self.pretrained, args, _unlabelled(self.pretrained, kwargs) | own)

    def _apart(self, args, kwargs, pipeline):
        """The answer of one branch, the labelled one first."""
        null = pipeline.get("negative_prompt_embeds")
        if self.branch == "cond" and (null is None or kwargs.get("encoder_hidden_states") is not null):
            if pipeline and not pipeline.get("do_true_cfg"):
                self._warn(pipeline["self"], "true_cfg_scale", pipeline.get("true_cfg_scale"))
            self.last_main = self.finetuned(*args, **kwargs)
            return self.last_main
        self.warned = None
        if not self._is_on(args, kwargs):
            return self.last_main
        return self._guide(self.last_main, args, kwargs, len(_sample(self.last_main)))


def guide_pipeline(pipe, pretrained, null=None, **options):
    """Guide a fine-tuned pipeline by a pre-trained one, or by its network. In place.  -> the pipeline

    Its guidance_scale now means w. options: `domain`, `interval`, `every` of `DomainGuidedModel`.
    Raises ValueError if the two differ in network, text encoders, VAE, scheduler or prediction type.
    """
    name = network_name(pipe)
    network = getattr(pretrained, name, pretrained)
    if network is not pretrained:
        _check_parts(pipe, pretrained)
    setattr(pipe, name, DomainGuidedModel(getattr(pipe, name), network, null, **options))
    return pipe


def network_name(pipe):
    """What a pipeline calls its network: "unet" or "transformer". Raises ValueError if it has neither."""
    for name in ("unet", "transformer"):
        if getattr(pipe, name, None) is not None:
            return name
    raise ValueError(f"pipe is a {type(pipe).__name__}; expected a pipeline with a unet or a transformer")


def _check_networks(finetuned, pretrained):
    """Raise if the two are not of one class that is known here, and alike in what a pipeline asks of them."""
    for what, net in (("finetuned", finetuned), ("pretrained", pretrained)):
        for name, remedy in WRAPPERS.items():
            if hasattr(net, name):
                raise ValueError(f"{what} is a {type(net).__name__}; expected {remedy}")
    kind = finetuned.__class__.__name__  # not type(): wrappers answer for what they hold
    if kind not in ORDER:
        raise ValueError(
            f"finetuned is a {kind}; expected one of {', '.join(ORDER)}: "
            "of others the order of halves is not known"
        )
    if not isinstance(pretrained, WithoutAdapter) and pretrained.__class__ is not finetuned.__class__:
        raise ValueError(f"pretrained is a {type(pretrained).__name__}; expected a {kind}, as finetuned is")
    for name in SHARED:
        came, expected = (getattr(net.config, name, None) for net in (pretrained, finetuned))
        if came != expected:
            raise ValueError(
                f"pretrained has {name} {came}; finetuned has {expected}: one pipeline cannot serve both"
            )


def _check_parts(pipe, other):
    """Raise if the parts around the two networks would make their predictions differ in meaning."""
    for part, names in PARTS.items():
        mine, theirs = (getattr(p, part, None) for p in (pipe, other))
        expected, came = (
            type(getattr(p, "_orig_mod", p)).__name__ for p in (mine, theirs)
        )  # compiled or not
        solvers = part == "scheduler" and None not in (mine, theirs)  # two solvers of one process will do
        if came != expected and not solvers:
            raise ValueError(f"pretrained has {part} {came}; the pipeline has {expected}")
        for name in names if mine is not None else ():
            came, expected = (getattr(p.config, name, None) for p in (theirs, mine))
            if _plain(came) != _plain(expected):
                raise ValueError(
                    f"pretrained has {part}.{name} {_short(came)}; the pipeline has {_short(expected)}"
                )


def _plain(value):
    """A setting as it compares: tuples and arrays are lists, and what is off or 0 is as if missing."""
    return list(value) if isinstance(value, tuple) or hasattr(value, "tolist") else value or None


def _short(value):
    """A setting in a line: a long list by its ends and its length."""
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) <= 8:
        return value
    return f"{value[0]:.3g} ... {value[-1]:.3g} ({len(value)} values)"


def _check_null(null, net):
    """Raise if the guide's null condition is not among the inputs, of one row each, of the text's width."""
    known = inspect.signature(net.forward).parameters
    for name, value in null.items():
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ValueError(
                f"null has {name}; expected inputs of a {type(net).__name__}, such as encoder_hidden_states"
            )
        if not torch.is_tensor(value) or not value.ndim or len(value) != 1:
            came = tuple(getattr(value, "shape", ())) or type(value).__name__
            raise ValueError(f"null has {name} of {came}; expected a tensor (1, ...)")
    widths = (getattr(net.config, name, None) for name in WIDTHS)
    width = next((w for w in widths if isinstance(w, int)), None)
    text = null.get("encoder_hidden_states")
    if text is not None and width and text.shape[-1] != width:
        raise ValueError(
            f"null has encoder_hidden_states of width {text.shape[-1]}; expected {width}, as the network has"
        )


def call_as(net, args, kwargs):
    """A network's answer, in the latents' dtype, to inputs of another dtype or device than its own.

    Timesteps keep their dtype. The network moves to the latents' device, unless offloading moves it.
    """
    x = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
    device, dtype = getattr(net, "device", x.device), getattr(net, "dtype", x.dtype)
    is_offloaded = hasattr(net, "_hf_hook") or hasattr(net, "_diffusers_hook")
    if device != x.device and not is_offloaded:
        net.to(x.device)

    def cast(value):
        if value.ndim < 2:  # a timestep
            return value.to(x.device)
        return value.to(x.device, dtype if value.is_floating_point() else value.dtype)

    out = net(*each_tensor(cast, args), **each_tensor(cast, kwargs))
    return out if _sample(out).dtype == x.dtype else _answer(out, _sample(out).to(x.dtype))


@torch.compiler.disable
def _pipeline_call():
    """The variables of the pipeline's method that is calling, with its `self`; {} outside a pipeline."""
    from diffusers import DiffusionPipeline

    frame = sys._getframe(1)
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), DiffusionPipeline):
            return frame.f_locals
        frame = frame.f_back
    return {}


def each_tensor(change, value):
    """Every tensor in nested dicts, lists and tuples changed by a function."""
    if torch.is_tensor(value):
        return change(value)
    if isinstance(value, dict):
        return {k: each_tensor(change, v) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(each_tensor(change, v) for v in value)
    return value


def _rows(value, rows, whole):
    """The rows of every tensor that is as long as the batch."""
    return each_tensor(lambda v: v[rows] if v.ndim and len(v) == whole else v, value)


def _unlabelled(net, kwargs, rows=slice(None)):
    """The inputs with a DiT's own null label in `rows`, where its pipeline takes 1000; others as they are."""
    null = getattr(net.config, "num_embeds_ada_norm", None)
    if kwargs.get("class_labels") is None or null is None:
        return kwargs
    labels = kwargs["class_labels"].clone()
    labels[rows] = null
    return kwargs | dict(class_labels=labels)


def _timestep(args, kwargs):
    """The timestep of a call, by name or in second place, as a number."""
    time = kwargs["timestep"] if "timestep" in kwargs else args[1]
    return float(time.flatten()[0]) if torch.is_tensor(time) else float(time)


def _sample(out):
    """The prediction in a network's answer, a tuple or an output object."""
    return out[0] if isinstance(out, tuple) else out.sample


def _on_plane(pre, null, main, a):
    """The halves N, L that make a pipeline's formula N + b (L - N) a point of the guidance plane, as outputs.

    N = D_pre + a (D_null - D_pre), L = N + D_c - D_null.
    """
    D_pre, D_null, D_c = (_sample(out) for out in (pre, null, main))
    N = D_pre + a * (D_null - D_pre)
    return _answer(pre, N), _answer(pre, N + D_c - D_null)


def _joined(one, other):
    """Two halves' outputs as one."""
    return _answer(one, torch.cat([_sample(one), _sample(other)]))


def _answer(out, sample):
    """A network's answer with another prediction in it."""
    return (sample, *out[1:]) if isinstance(out, tuple) else type(out)(sample=sample)

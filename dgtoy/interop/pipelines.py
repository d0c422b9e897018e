"""Domain Guidance for diffusers pipelines: the fine-tuned and the pre-trained network in the place of one.

Pipelines with classifier-free guidance call their network on a batch of two halves, labelled and null, or,
some, once for each. Here the labelled half goes to the fine-tuned network and the null half to the
pre-trained one, so that `guidance_scale` means w: null + w (labelled - null).
"""

import contextlib
import inspect
import math

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

    With guidance off (one half) it is the fine-tuned network. Everything that a pipeline asks of its network
    besides a call, saving included, is answered by the fine-tuned one, so a pipeline saves as it did before.
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
        self.steps, self.last_time, self.last_guide = (
            0,
            -math.inf,
            None,
        )  # guided steps of this run, for `every`
        self.was_guided = True  # whether the last call was on two halves
        self.branch, self.last_main = "cond", None  # where the branches are called apart
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
            return getattr(self.finetuned, name)

    @contextlib.contextmanager
    def cache_context(self, name):
        """Which branch the next call is: "cond" or "uncond"."""
        self.branch = name
        with self.finetuned.cache_context(name):
            try:
                yield
            finally:
                self.branch = "cond"

    def forward(self, *args, **kwargs):
        """As the network's own forward. A call on two halves is answered half by half."""
        if self.order == "apart":
            return self._apart(args, kwargs)
        x = args[0] if args else kwargs.get("hidden_states", kwargs.get("sample"))
        if len(x) % 2:
            return self.finetuned(*args, **kwargs)
        n, adapter = len(x) // 2, self._mixable_adapter()
        is_doubled = _later(
            (x[:n] == x[n:]).all()
        )  # pipelines double their latents where they guide, only there
        halves = [[_rows(v, rows, 2 * n) for v in (args, kwargs)] for rows in (slice(n), slice(n, None))]
        labelled, null = self._ordered(*halves)
        main = None
        if self.was_guided and not adapter:  # probably guided again: let the device work while it is asked
            main = self.finetuned(*labelled[0], **labelled[1])
        self.was_guided = is_doubled()
        if not self.was_guided:
            return self.finetuned(*args, **kwargs)
        if adapter and self._is_on(*null):
            names = self._ordered([adapter] * n, ["__base__"] * n)
            with contextlib.suppress(BatchMismatch), mixed_batch(self.finetuned, names[0] + names[1]):
                return self.finetuned(*args, **self._with_null_label(kwargs, n))
        if main is None:
            main = self.finetuned(*labelled[0], **labelled[1])
        guide = main  # outside the interval: nothing is added
        if self._is_on(*null):
            guide, main = self._plane_or_line(main, *null, n)
        return _joined(*self._ordered(main, guide))

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

    def _with_null_label(self, kwargs, n):
        """The inputs of both halves, the null half with the network's own null label."""
        if kwargs.get("class_labels") is None:
            return kwargs
        labels = kwargs["class_labels"].clone()
        labels[slice(n, None) if self.order == "first" else slice(n)] = (
            self.finetuned.config.num_embeds_ada_norm
        )
        return kwargs | dict(class_labels=labels)

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
            return self.pretrained(*args, **self._guide_inputs(kwargs, n))
        time = _timestep(args, kwargs)
        if time >= self.last_time:  # another run, or its first step
            self.steps = 0
        self.last_time = time
        if self.steps % self.every == 0 or _sample(self.last_guide).shape != _sample(main).shape:
            self.last_guide = self.pretrained(*args, **self._guide_inputs(kwargs, n))
        self.steps += 1
        return self.last_guide

    def _guide_inputs(self, kwargs, n):
        """The guide's inputs, with its own null condition."""
        own = {name: value.expand(n, *value.shape[1:]) for name, value in self.null.items()}
        return _unlabelled(self.pretrained, kwargs) | own

    def _apart(self, args, kwargs):
        """The answer of one branch, the labelled one first."""
        if self.branch == "cond":
            self.last_main = self.finetuned(*args, **kwargs)
            return self.last_main
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


def _later(flag):
    """A function that returns a flag () as a bool, waiting only for what the device did before it."""
    if not flag.is_cuda:
        return lambda: bool(flag)
    copy, done = torch.empty((), dtype=torch.bool, pin_memory=True), torch.cuda.Event()
    copy.copy_(flag, non_blocking=True)
    done.record()

    def ask():
        done.synchronize()
        return bool(copy)

    return ask


def _rows(value, rows, whole):
    """The rows of every tensor that is as long as the batch, in nested dicts, lists and tuples."""
    if torch.is_tensor(value):
        return value[rows] if value.ndim and len(value) == whole else value
    if isinstance(value, dict):
        return {k: _rows(v, rows, whole) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_rows(v, rows, whole) for v in value)
    return value


def _unlabelled(net, kwargs):
    """The inputs of a network that knows classes, with its own null: DiT's pipeline takes 1000 for all."""
    if kwargs.get("class_labels") is None:
        return dict(kwargs)
    return {**kwargs, "class_labels": torch.full_like(kwargs["class_labels"], net.config.num_embeds_ada_norm)}


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
    L = N + D_c - D_null
    if isinstance(pre, tuple):
        return (N,), (L,)
    return type(pre)(sample=N), type(pre)(sample=L)


def _joined(one, other):
    """Two halves' outputs, tuples or diffusers' output objects, as one."""
    if isinstance(one, tuple):
        pairs = zip(one, other, strict=True)
        return tuple(torch.cat(pair) if torch.is_tensor(pair[0]) else pair[0] for pair in pairs)
    return type(one)(sample=torch.cat([one.sample, other.sample]))

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

from .lora import AdapterOff, OtherRows, adapter_off, mixed, sole_adapter

ORDER = {  # class of the network: where its pipelines put the labelled half
    "DiTTransformer2DModel": "first",
    "UNet2DConditionModel": "second",
    "PixArtTransformer2DModel": "second",
    "SD3Transformer2DModel": "second",
    "FluxTransformer2DModel": "apart",  # two calls, told apart by `cache_context`
}
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
)  # what two networks must have in common for one pipeline to serve both
WIDTHS = (
    "caption_channels",
    "joint_attention_dim",
    "cross_attention_dim",
)  # the first that a network has is the width of its text
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
    in between. With guidance off (one half) it is the fine-tuned network. Everything that a pipeline asks of
    its network besides a call, saving included, is answered by the fine-tuned one, so a pipeline saves as it
    did before. Raises ValueError for networks that no pipeline here can serve together.
    """

    def __init__(self, finetuned, pretrained, null=None, domain=None, interval=(0.0, math.inf), every=1):
        super().__init__()
        kind = finetuned.__class__.__name__  # not type(): wrappers answer for what they hold
        if kind not in ORDER:
            raise ValueError(
                f"finetuned is a {kind}; expected one of {', '.join(ORDER)}: of others the order of halves is not known"
            )
        if not isinstance(pretrained, AdapterOff) and pretrained.__class__ is not finetuned.__class__:
            raise ValueError(
                f"pretrained is a {type(pretrained).__name__}; expected a {kind}, as finetuned is"
            )
        for name in SHARED:
            came, expected = (getattr(net.config, name, None) for net in (pretrained, finetuned))
            if came != expected:
                raise ValueError(
                    f"pretrained has {name} {came}; finetuned has {expected}: one pipeline cannot serve both"
                )
        if (domain is not None and not math.isfinite(domain)) or every < 1 or not interval[0] < interval[1]:
            raise ValueError(
                f"domain, every, interval are {domain}, {every}, {interval}; expected finite or None, 1 or more, low < high"
            )
        if domain is not None and ORDER[kind] == "apart":
            raise ValueError(
                f"domain is {domain}; expected None for a {kind}, whose pipeline calls the branches apart"
            )
        _check_null(null or {}, finetuned)
        self.finetuned, self.pretrained, self.null = finetuned, pretrained, null or {}
        self.domain, self.interval, self.every = domain, interval, every
        self.calls, self.kept, self.time = (
            0,
            None,
            -math.inf,
        )  # guided steps of this run, the guide's last answer, and when
        self.order, self.branch, self.guided = (
            ORDER[kind],
            "cond",
            True,
        )  # guided: was the last call on two halves?
        self.__dict__["__module__"] = (
            finetuned.__class__.__module__
        )  # with __class__, what a pipeline writes down of its network

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
        n, adapter = len(x) // 2, self._mixes()
        if len(x) % 2:
            return self.finetuned(*args, **kwargs)
        doubled = _answer(
            (x[:n] == x[n:]).all()
        )  # pipelines double their latents where they guide, and only there
        halves = [
            (_half(args, rows, 2 * n), _half(kwargs, rows, 2 * n))
            for rows in (slice(None, n), slice(n, None))
        ]
        labelled, null = self._ordered(*halves)
        expected = (
            self.guided and not adapter
        )  # then the labelled half goes first, and the device works while it is asked
        main = self.finetuned(*labelled[0], **labelled[1]) if expected else None
        self.guided = doubled()
        if not self.guided:
            return self.finetuned(*args, **kwargs)
        if adapter and self._on(*null):
            first, second = self._ordered([adapter] * n, ["__base__"] * n)
            with contextlib.suppress(OtherRows), mixed(self.finetuned, first + second):
                return self.finetuned(*args, **self._one_batch(kwargs, n))
        main = self.finetuned(*labelled[0], **labelled[1]) if main is None else main
        guide = main  # outside the interval: nothing is added
        if self._on(*null):
            guide, main = self._parts(main, *null, n)
        return _joined(*self._ordered(main, guide))

    def _ordered(self, labelled, null):
        return (labelled, null) if self.order == "first" else (null, labelled)

    def _mixes(self):
        """The LoRA's name if one forward can serve both halves: the guide is this network without it, and
        sees what the pipeline gives.
        """
        same = isinstance(self.pretrained, AdapterOff) and self.pretrained.net is self.finetuned
        return (
            sole_adapter(self.finetuned, self.pretrained.adapter)
            if same and not self.null and self.domain is None and self.every == 1
            else None
        )

    def _one_batch(self, kwargs, n):
        """The inputs of both halves, the null half with the network's own null label."""
        if kwargs.get("class_labels") is None:
            return kwargs
        labels, rows = (
            kwargs["class_labels"].clone(),
            slice(n, None) if self.order == "first" else slice(None, n),
        )
        labels[rows] = self.finetuned.config.num_embeds_ada_norm
        return kwargs | dict(class_labels=labels)

    def _on(self, args, kwargs):
        everywhere = self.interval == (0.0, math.inf)  # then the device need not be waited for
        return everywhere or self.interval[0] <= _timestep(args, kwargs) <= self.interval[1]

    def _parts(self, main, args, kwargs, n):
        """What stands for the null and for the labelled half."""
        if self.domain is None:
            return self._guide(main, args, kwargs, n), main
        own = self.finetuned(*args, **_unlabelled(self.finetuned, kwargs))
        if self.domain == 1:  # the line of classifier-free guidance
            return own, main
        return _affine(self._guide(main, args, kwargs, n), own, main, self.domain)

    def _guide(self, main, args, kwargs, n):
        """The guide's answer for the null half, or its last one where it rests."""
        if self.every == 1:
            return self.pretrained(*args, **self._null(kwargs, n))
        time = _timestep(args, kwargs)
        if time >= self.time:  # another run, or its first step
            self.calls = 0
        self.time = time
        if self.calls % self.every == 0 or _sample(self.kept).shape != _sample(main).shape:
            self.kept = self.pretrained(*args, **self._null(kwargs, n))
        self.calls += 1
        return self.kept

    def _apart(self, args, kwargs):
        if self.branch == "cond":
            self.last = self.finetuned(*args, **kwargs)
            return self.last
        return (
            self._guide(self.last, args, kwargs, len(_sample(self.last)))
            if self._on(args, kwargs)
            else self.last
        )

    def _null(self, kwargs, n):
        """The guide's inputs, with its own null condition."""
        return _unlabelled(self.pretrained, kwargs) | {
            k: v.expand(n, *v.shape[1:]) for k, v in self.null.items()
        }


def _unlabelled(net, kwargs):
    """The inputs of a network that knows classes, with its own null label: DiT's pipeline takes 1000 for that
    of every model.
    """
    if kwargs.get("class_labels") is None:
        return dict(kwargs)
    return {**kwargs, "class_labels": torch.full_like(kwargs["class_labels"], net.config.num_embeds_ada_norm)}


def guide_by_base(pipe, adapter=None):
    """Guide a pipeline with a LoRA by its own base model: the same network, the adapter off for the null
    half. In place.  -> the pipeline

    adapter: which one, by name; by default all. Raises ValueError for a pipeline without a network of a known
    class or without that adapter.
    """
    name = network_name(pipe)
    net = getattr(pipe, name)
    with adapter_off(net, adapter):
        pass
    setattr(pipe, name, DomainGuidedModel(net, AdapterOff(net, adapter)))
    return pipe


def guide_pipeline(pipe, pretrained, null=None, **options):
    """Guide a fine-tuned pipeline by a pre-trained one (or by its network). In place.  -> the pipeline, whose
    guidance_scale now means w

    options: `domain`, `interval`, `every` of `DomainGuidedModel`. Raises ValueError if the two differ in
    network, text encoders, VAE, scheduler or prediction type.
    """
    name = network_name(pipe)
    other = getattr(pretrained, name, pretrained)
    if other is not pretrained:
        _same_parts(pipe, pretrained)
    guided = DomainGuidedModel(getattr(pipe, name), other, null, **options)
    setattr(pipe, name, guided)
    return pipe


def network_name(pipe):
    """ "unet" or "transformer": what a pipeline calls its network."""
    for name in ("unet", "transformer"):
        net = getattr(pipe, name, None)
        if net is not None:
            return name
    raise ValueError(f"pipe is a {type(pipe).__name__}; expected a pipeline with a unet or a transformer")


def _same_parts(pipe, other):
    """Raise if the parts around the two networks would make their predictions differ in meaning."""
    for part, names in PARTS.items():
        one, two = (getattr(p, part, None) for p in (pipe, other))
        kinds = [type(getattr(v, "_orig_mod", v)).__name__ for v in (two, one)]  # what torch.compile wraps
        if kinds[0] != kinds[1] and (
            part != "scheduler" or None in (one, two)
        ):  # another solver of the same process will do
            raise ValueError(f"pretrained has {part} {kinds[0]}; the pipeline has {kinds[1]}")
        for name in names if one is not None else ():
            came, expected = (getattr(p.config, name, None) for p in (two, one))
            if _plain(came) != _plain(expected):
                raise ValueError(
                    f"pretrained has {part}.{name} {_short(came)}; the pipeline has {_short(expected)}"
                )


def _plain(value):
    """A setting as it compares: tuples and arrays are lists; a switch that is off is as one that is not
    there.
    """
    return list(value) if isinstance(value, tuple) or hasattr(value, "tolist") else value or None


def _short(value):
    """A setting in a line: a long list by its ends and its length."""
    return (
        f"{value[0]:.3g} ... {value[-1]:.3g} ({len(value)} values)"
        if hasattr(value, "__len__") and not isinstance(value, str) and len(value) > 8
        else value
    )


def _check_null(null, net):
    """Raise if the guide's own null condition is not of inputs that the network has, of one row each and of
    its text's width.
    """
    known = inspect.signature(net.forward).parameters
    for name, value in null.items():
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ValueError(
                f"null has {name}; expected inputs of a {type(net).__name__}, such as encoder_hidden_states"
            )
        if not torch.is_tensor(value) or not value.ndim or len(value) != 1:
            raise ValueError(
                f"null has {name} of {tuple(getattr(value, 'shape', ())) or type(value).__name__}; expected a tensor (1, ...)"
            )
    width = next((w for w in (getattr(net.config, n, None) for n in WIDTHS) if isinstance(w, int)), None)
    text = null.get("encoder_hidden_states")
    if text is not None and width and text.shape[-1] != width:
        raise ValueError(
            f"null has encoder_hidden_states of width {text.shape[-1]}; the network reads text of width {width}"
        )


def _answer(flag):
    """A function that returns a flag () of the device as a bool, and waits for what the device had to do
    before it, no longer.
    """
    if not flag.is_cuda:
        return lambda: bool(flag)
    held, done = torch.empty((), dtype=torch.bool, pin_memory=True), torch.cuda.Event()
    held.copy_(flag, non_blocking=True)
    done.record()

    def ask():
        done.synchronize()
        return bool(held)

    return ask


def _half(value, rows, whole):
    """The rows of every tensor that is as long as the batch, in nested dicts, lists and tuples."""
    if torch.is_tensor(value):
        return value[rows] if value.ndim and len(value) == whole else value
    if isinstance(value, dict):
        return {k: _half(v, rows, whole) for k, v in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_half(v, rows, whole) for v in value)
    return value


def _timestep(args, kwargs):
    """The timestep of a call, by name or in second place, as a number."""
    time = kwargs["timestep"] if "timestep" in kwargs else args[1]
    return float(time.flatten()[0]) if torch.is_tensor(time) else float(time)


def _sample(out):
    """The prediction in a network's answer, a tuple or an output object."""
    return out[0] if isinstance(out, tuple) else out.sample


def _affine(pre, null, labelled, a):
    """The two halves that make a pipeline's formula a point of the guidance plane.  -> N, L"""
    base, own, top = (_sample(o) for o in (pre, null, labelled))
    N = base + a * (own - base)
    make = (lambda v: (v,)) if isinstance(pre, tuple) else lambda v: type(pre)(sample=v)
    return make(N), make(N + top - own)


def _joined(one, other):
    """Two halves' outputs, tuples or diffusers' output objects, as one."""
    if isinstance(one, tuple):
        return tuple(
            torch.cat(pair) if torch.is_tensor(pair[0]) else pair[0] for pair in zip(one, other, strict=True)
        )
    return type(one)(sample=torch.cat([one.sample, other.sample]))

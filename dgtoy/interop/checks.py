"""What two networks, and the pipelines around them, must have in common for one to guide the other."""

import difflib
import inspect
import math
import numbers
import warnings
from typing import NamedTuple

import torch

from ..checks import check_interval, shown
from .adapters import WithoutAdapter


class Layout(NamedTuple):
    """How pipelines call a network.

    order: the labelled half "first" or "second" in a batch of two, or the two "apart", the labelled one
    before. scale: the pipeline's name for the weight of guidance. unit: how many of the scheduler's timesteps
    are 1 of the network's time. sign: -1 where time runs the other way, 1 - t / unit, and the network gives
    the negative velocity x0 - eps.
    """

    order: str
    scale: str = "guidance_scale"
    unit: float = 1.0
    sign: int = 1

    def time(self, t):
        """The network's time of a timestep of the scheduler."""
        return t / self.unit if self.sign > 0 else 1 - t / self.unit

    def timestep(self, time):
        """The scheduler's timestep of the network's time."""
        return self.unit * (time if self.sign > 0 else 1 - time)


LAYOUTS = {  # by the network's class
    "DiTTransformer2DModel": Layout("first"),
    "UNet2DConditionModel": Layout("second"),
    "PixArtTransformer2DModel": Layout("second"),
    "SD3Transformer2DModel": Layout("second"),
    "FluxTransformer2DModel": Layout("apart", "true_cfg_scale", 1000),
    "QwenImageTransformer2DModel": Layout("apart", "true_cfg_scale", 1000),
    "Lumina2Transformer2DModel": Layout("apart", unit=1000, sign=-1),
    "WanTransformer3DModel": Layout("apart"),
}
EVERYWHERE = (0.0, math.inf)
OPTIONS = ("domain", "interval", "every", "blur")
# of two networks
SHARED = (
    "in_channels",
    "out_channels",
    "sample_size",
    "cross_attention_dim",
    "joint_attention_dim",
    "caption_channels",
    "cap_feat_dim",
    "text_dim",
    "pooled_projection_dim",
    "addition_embed_type",
    "projection_class_embeddings_input_dim",
    "class_embed_type",
    "num_class_embeds",
    "encoder_hid_dim",
    "time_cond_proj_dim",
    "guidance_embeds",
)
# the first that a network has is the width of its text
WIDTHS = ("caption_channels", "cap_feat_dim", "text_dim", "joint_attention_dim", "cross_attention_dim")
TEXT = ("hidden_size", "d_model", "vocab_size")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
PARTS = {  # of the parts around two networks
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
} | dict.fromkeys(TEXT_ENCODERS, TEXT)


def network_name(pipe):
    """What a pipeline calls its network: "unet" or "transformer". Raises ValueError if it has neither."""
    for name in ("unet", "transformer"):
        if getattr(pipe, name, None) is not None:
            return name
    raise ValueError(f"pipe is a {type(pipe).__name__}; expected a pipeline with a unet or a transformer")


def bare(net):
    """The network within torch.compile, DDP, FSDP, peft or `WithoutAdapter`, which answer calls alone."""
    if isinstance(net, WithoutAdapter):
        return bare(net.net)
    for name in ("_orig_mod", "module"):
        if hasattr(net, name):
            return bare(getattr(net, name))
    return bare(net.get_base_model()) if hasattr(net, "get_base_model") else net


def kind_of(net):
    """The name of a network's class, or of the class known here that it was made from."""
    cls = bare(net).__class__  # not type(): wrappers answer for what they hold
    names = [c.__name__ for c in cls.__mro__]
    return next((name for name in names if name in LAYOUTS), names[0])


def check_networks(finetuned, pretrained):
    """Raise if the two are not of one class that is known here, and alike in what a pipeline asks of them."""
    kind = kind_of(finetuned)
    if kind not in LAYOUTS:
        raise ValueError(
            f"finetuned is a {kind}; expected one of {', '.join(LAYOUTS)}: "
            "of others the order of halves is not known"
        )
    if isinstance(pretrained, WithoutAdapter):
        return
    if kind_of(pretrained) != kind:
        raise ValueError(f"pretrained is a {kind_of(pretrained)}; expected a {kind}, as finetuned is")
    for name in SHARED:
        came, expected = (getattr(bare(net).config, name, None) for net in (pretrained, finetuned))
        if came != expected:
            raise ValueError(
                f"pretrained has {name} {came}; finetuned has {expected}: one pipeline cannot serve both"
            )


def check_parts(pipe, other):
    """Raise if the parts around the two networks would make their predictions differ in meaning."""
    for part, names in PARTS.items():
        mine, theirs = (getattr(p, part, None) for p in (pipe, other))
        expected, came = (type(getattr(p, "_orig_mod", p)).__name__ for p in (mine, theirs))
        solvers = part == "scheduler" and None not in (mine, theirs)  # two solvers of one process will do
        if came != expected and not solvers:
            raise ValueError(f"pretrained has {part} {came}; the pipeline has {expected}")
        for name in names if mine is not None else ():
            came, expected = (getattr(p.config, name, None) for p in (theirs, mine))
            if name == "vocab_size" and expected is not None:
                expected += _learnt(other, part) - _learnt(pipe, part)
            if _plain(came) != _plain(expected):
                raise ValueError(
                    f"pretrained has {part}.{name} {_short(came)}; the pipeline has {_short(expected)}"
                )


def warn_of_encoders(pipe, other):
    """Say which text encoder was trained too: it reads the null prompt that the guide sees. The first numbers
    of each weight tell, where both pipelines hold it alike."""
    for part in TEXT_ENCODERS:
        mine, theirs = (getattr(p, part, None) for p in (pipe, other))
        if None in (mine, theirs):
            continue
        known = dict(theirs.named_parameters())
        pairs = [(v, known[name]) for name, v in mine.named_parameters() if name in known]
        alike = [(v, w) for v, w in pairs if (v.dtype, v.device) == (w.dtype, w.device) and not v.is_meta]
        if not all(torch.equal(v.reshape(-1)[:64], w.reshape(-1)[:64]) for v, w in alike):
            warnings.warn(
                f"{part} has other weights than pretrained's, so the guide sees the null prompt as the"
                " pipeline's reads it; expected null, as pretrained's reads it",
                stacklevel=3,
            )


def _learnt(pipe, encoder):
    """How many tokens a pipeline's tokenizer was given later, as by `load_textual_inversion`: the base need
    not know them, as its guide sees the null prompt alone."""
    tokenizer = getattr(pipe, encoder.replace("text_encoder", "tokenizer"), None)
    return len(tokenizer.get_added_vocab()) if tokenizer is not None else 0


def _plain(value):
    """A setting as it compares: tuples and arrays are lists, and what is off or 0 is as if missing."""
    return list(value) if isinstance(value, tuple) or hasattr(value, "tolist") else value or None


def _short(value):
    """A setting in a line: a long list by its ends and its length."""
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) <= 8:
        return value
    return f"{value[0]:.3g} ... {value[-1]:.3g} ({len(value)} values)"


def check_null(null, net):
    """Raise if the guide's null condition is not among the inputs, of one row each, of the text's width."""
    if not isinstance(null, dict):
        raise ValueError(
            f"null is a {type(null).__name__}; expected inputs by name, encoder_hidden_states say"
        )
    net = bare(net)
    known = inspect.signature(net.forward).parameters
    for name, value in null.items():
        if name not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise ValueError(
                f"null has {name}; expected inputs of a {type(net).__name__}, such as encoder_hidden_states"
            )
        for tensor in value.values() if isinstance(value, dict) else (value,):
            if not torch.is_tensor(tensor) or not tensor.ndim or len(tensor) != 1:
                came = tuple(getattr(tensor, "shape", ())) or type(tensor).__name__
                raise ValueError(f"null has {name} of {came}; expected a tensor (1, ...)")
    widths = (getattr(net.config, name, None) for name in WIDTHS)
    width = next((w for w in widths if isinstance(w, int)), None)
    text = null.get("encoder_hidden_states")
    if text is not None and width and text.shape[-1] != width:
        raise ValueError(
            f"null has encoder_hidden_states of width {text.shape[-1]}; expected {width}, as the network has"
        )


def check_tokens(x, call):
    """Raise if a pipeline's call has other tokens beside its latents: a picture's to edit have no noise."""
    latents = call.get("latents")
    if latents is not None and x.ndim == 3 and x.shape[1] != latents.shape[1]:
        raise ValueError(
            f"blur is on, and a {type(call['self']).__name__} calls its network on {x.shape[1]} tokens, "
            f"{latents.shape[1]} of them noisy; expected these alone"
        )


def check_pipe(pipe):
    """Raise AttributeError if an option was set on a pipeline itself, where nothing reads it."""
    for name in vars(pipe):
        for option in difflib.get_close_matches(name, OPTIONS, 1, 0.8):
            place = "guider" if hasattr(pipe, "update_components") else network_name(pipe)
            raise AttributeError(f"pipe.{name} is set; expected pipe.{place}.{option}, and del pipe.{name}")


def as_option(name, value):
    """A value of `domain`, `interval`, `every` or `blur` as plain numbers, which can be saved.

    Raises ValueError for one that cannot be, and AttributeError for another name that an option was meant by.
    """
    meant = difflib.get_close_matches(name.lower(), OPTIONS, 1, 0.8)
    if meant and name not in OPTIONS:
        raise AttributeError(f"{name} is no option; expected {meant[0]}")
    if name == "interval":
        check_interval(value)
        return tuple(float(level) for level in value)
    finite = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if name == "every":
        if not (finite and isinstance(value, numbers.Integral) and value >= 1):
            raise ValueError(f"every is {shown(value)}; expected a whole number, 1 or more")
        return int(value)
    if name not in OPTIONS or value is None:
        return value
    if name == "domain" and not finite:
        raise ValueError(f"domain is {shown(value)}; expected a finite number, or None")
    if name == "blur" and not (finite and value > 0):
        raise ValueError(f"blur is {shown(value)}; expected a finite width above 0, or None")
    return float(value)

"""DiT checkpoints: official files, training files and safetensors, and the sizes of the network in them."""

import argparse
import json
import math
import pathlib
import re

import torch
from safetensors import safe_open

from ..checkpoint import check_crc32, check_shapes, opened, write_safetensors
from ..checks import check_whole, shown
from .network import CONFIGS, DiT

AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model")  # in a training file
EMA = re.compile(r"(^|_)ema(_|$)", re.I)  # a name of averages, "schema" none
HOLDERS = (*AVERAGED, "model", "state_dict")  # of its weights
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")  # of parallel and of compiled modules
TABLE = "y_embedder.embedding_table.weight"
THEIRS = re.compile(r"transformer_blocks\.|pos_embed\.proj\.|proj_out_\d\.")  # names in diffusers
FROM_DIFFUSERS = (  # whose networks are folders, in one part or several
    "expected a file by dgtoy.dit.save_checkpoint(dgtoy.dit.convert.from_diffusers("
    "DiTTransformer2DModel.from_pretrained(FOLDER)), FILE)"
)


def load_checkpoint(path: str | pathlib.Path) -> dict[str, torch.Tensor]:
    """The weights in a file, by their official names, in float32; of a training file the averaged ones.

    Reads official flat files and training files (.pt, with one of `HOLDERS`, the first that it has, and an
    argparse Namespace: exactly that class is let through, nothing else can run), and .safetensors; what
    torch's wrappers put before a name is left out.  -> state_dict
    Raises ValueError if the file is damaged, holds code or weights that are not finite, or two of one name,
    or averages where they are not looked for, or is no DiT's.
    """
    state = _unwrapped(_read(path), path)
    if not isinstance(state, dict) or TABLE not in state:
        held = list(state)[:3] if isinstance(state, dict) else type(state).__name__
        raise ValueError(
            f"{path} is not a DiT's: it holds {held}; expected names like {TABLE}, all parts in one file"
        )
    for name, value in state.items():
        dense = torch.is_tensor(value) and value.layout is torch.strided and not value.is_meta
        if not dense or not value.is_floating_point():
            raise ValueError(
                f"{path} is not a DiT's: {name} is {shown(value)}; expected a tensor of real numbers"
            )
    state = {name: value.float() for name, value in state.items()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} holds numbers that are not finite; expected trained weights")
    return state


def _read(path):
    """What a file holds, whatever that is. Raises ValueError for one that is damaged or holds code."""
    if str(path).endswith(".index.json"):
        raise ValueError(f"{path} lists the parts of a network of diffusers; {FROM_DIFFUSERS}")
    if pathlib.Path(path).is_dir():
        raise ValueError(f"{path} is a folder; {FROM_DIFFUSERS}, or another file of weights")
    try:
        if is_safetensors(path):
            state, told = opened(path)
            check_crc32(state, _ours(told))
            return state
        # opened here, as torch.load takes a name that ends in .safetensors for a file of that kind
        with torch.serialization.safe_globals([argparse.Namespace]), open(path, "rb") as file:
            return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except Exception as e:
        why = f"{type(e).__name__}: {' '.join(str(e).split())[:80]}"
        if code := re.search(r"GLOBAL \S+|operand \d+", str(e)):
            why = f"its pickle asks for {code[0]}"  # torch's own text says how to run it all the same
        raise ValueError(f"{path} is not a complete checkpoint of weights alone ({why})") from None


def _unwrapped(found, path):
    """The weights within what a file holds, by names without what torch's wrappers put before them.

    Raises ValueError for two of one name, for names of diffusers, and for averages under another name.
    """
    if isinstance(found, dict):
        held = next((name for name in HOLDERS if found.get(name) is not None), None)
        for name, value in found.items():
            if held and held not in AVERAGED and EMA.search(str(name)) and isinstance(value, dict) and value:
                raise ValueError(f"{path} holds {name} beside {held}; expected averages as {AVERAGED[0]}")
        found = found[held] if held else found
    if not isinstance(found, dict):
        return found
    state = {}
    for name, value in found.items():
        official = WRAPPERS.sub("", name) if isinstance(name, str) else name
        if official in state:
            raise ValueError(f"{path} holds {official} twice, as {name} too; expected one")
        state[official] = value
    if any(THEIRS.match(str(name)) for name in state):
        raise ValueError(f"{path} is of diffusers; {FROM_DIFFUSERS}")
    return state


def is_safetensors(path):
    """Whether a file is to be read as that, whatever its name: all but what begins as a zip or a pickle."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" or head[:1] not in (b"P", b"\x80")


def config_of(state, num_heads=None, path="state"):
    """The sizes of a DiT, and its kind, from its weights.

    Heads leave no trace in them: by default those of the named size of that width. Raises ValueError for
    another width without num_heads, and if a weight that tells the sizes is missing.
    """
    for name, axes in (
        ("x_embedder.proj.weight", 4),
        ("pos_embed", 3),
        ("final_layer.linear.weight", 2),
        (TABLE, 2),
    ):
        came = tuple(state[name].shape) if name in state else "nothing"
        if len(came) != axes or 0 in came:
            raise ValueError(f"{path}: {name} has shape {came}; expected {axes} axes, none of them empty")
    hidden, channels, patch, _ = state["x_embedder.proj.weight"].shape
    known = {c["hidden_size"]: c["num_heads"] for c in CONFIGS.values()}
    if num_heads is not None:
        check_whole("num_heads", num_heads, 1)
    if num_heads is None and hidden not in known:
        sizes = ", ".join(map(str, known))
        raise ValueError(
            f"{path}: hidden_size is {hidden}; expected that of a named size ({sizes}), or num_heads, "
            "as in --heads 4"
        )
    out = state["final_layer.linear.weight"].shape[0] // patch**2
    return dict(
        input_size=math.isqrt(state["pos_embed"].shape[1]) * patch,
        patch_size=patch,
        in_channels=channels,
        hidden_size=hidden,
        depth=len({k.split(".")[1] for k in state if k.startswith("blocks.")}),
        num_heads=num_heads or known[hidden],
        num_classes=len(state[TABLE]) - 1,
        learn_sigma=out == 2 * channels,
    ) | {kind: True for kind in ("velocity", "flow", "sit") if kind in state}


def load_pretrained(
    path: str | pathlib.Path, num_classes: int | None = None, num_heads: int | None = None, seed: int = 0
) -> DiT:
    """A DiT with the weights of a checkpoint; with `num_classes`, a fresh table of so many labels.

    num_heads: by default as the file says, see `save_checkpoint`, or those of the named size of its width.
    Raises ValueError naming the first weight that is missing, superfluous or of another shape, and if the
    file says another size, as of one whose last block is missing.
    """
    state, told = load_checkpoint(path), header(path).get("config")
    told = told if isinstance(told, dict) else {}  # another tool's means other things
    config = config_of(state, told.get("num_heads") if num_heads is None else num_heads, path)
    for name, size in config.items():
        if size != told.get(name, size):
            raise ValueError(f"{name} is {size}; {path} says {told[name]}")
    with torch.device("meta"):  # no weights are drawn, only to be overwritten
        net = DiT(**config)
    load_weights(net, state, path)
    return net if num_classes is None else net.with_classes(num_classes, seed)


def save_checkpoint(net, path, **made):
    """The weights of a DiT as .safetensors, with its `config` and what `made` says of it in the header.

    Raises TypeError for what is no DiT, ValueError for one with an adapter, which no checkpoint holds.
    """
    if not isinstance(net, DiT):
        raise TypeError(f"net is {shown(net)}; expected a DiT")
    state = net.state_dict()
    if TABLE not in state:
        raise ValueError("net carries an adapter; expected a DiT without one")
    write_safetensors(path, state, dict(config=net.config) | made)


def header(path):
    """What the header of a file says that we wrote: a dict; of any other file {}."""
    try:
        with safe_open(path, "pt") as f:
            return _ours(f.metadata() or {})
    except Exception:  # of another kind, or damaged, of which whoever loads it will say so
        return {}


def _ours(metadata):
    """What we wrote into the metadata of a file: a dict; of any other file {}."""
    try:
        found = json.loads(metadata.get("json", "{}"))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def load_weights(net, state, path="state"):
    """Copy a state dict into a network; one on the meta device takes its tensors as they are.

    Raises ValueError naming the first weight that is missing, superfluous or of another shape.
    """
    check_shapes(path, state, net.state_dict())
    net.load_state_dict(state, assign=next(net.parameters()).is_meta)

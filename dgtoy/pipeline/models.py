"""Networks from files: a DiT checkpoint, what `finetune` wrote, or one that ships with dgtoy, by name."""

import pathlib
import warnings

import torch

from .. import shipped
from ..checkpoint import read_safetensors
from ..checks import check_whole
from ..dit import VP, Flow, checkpoints, load_pretrained, preconditioned
from ..interop import add_lora, lora_guide
from .manifest import checksum, weights_checksum

PUBLISHED = (  # what the paper fine-tunes
    "DiT-XL-2-256x256.pt",
    "https://dl.fbaipublicfiles.com/DiT/models/DiT-XL-2-256x256.pt",
    "CC BY-NC 4.0",
)
READY = [name for name in shipped.NAMES if name not in ("features", "glyphs", "patches")]  # work at once


def is_shipped(name):
    """Whether this names a network that comes with the library; a file of that name, and a folder that
    `finetune` wrote, go before it."""
    path = pathlib.Path(name)
    held = (path, path / "ema.safetensors", path / "last.safetensors")
    return str(name) in shipped.NAMES and not any(file.is_file() for file in held)


def weights_file(path):
    """The file that holds the weights of a checkpoint, of a folder that `finetune` wrote, or of a network
    that ships with dgtoy.

    Raises FileNotFoundError, where there is none, that says what is published where and which names work at
    once; or for a folder whose fine-tune is not at its end. ValueError for a folder of diffusers.
    """
    if is_shipped(path):
        return shipped.FOLDER / f"{path}.safetensors"
    path = pathlib.Path(path)
    if not path.exists():
        name, url, licence = PUBLISHED
        raise FileNotFoundError(
            f"checkpoint {path} is not on this machine; {name} is published at {url} (licence: {licence});"
            f" put it there, say where it is, or name one that ships with dgtoy: {', '.join(READY)}"
        )
    if path.is_dir() and not (path / "ema.safetensors").exists():
        if (path / "config.json").exists() or (path / "model_index.json").exists():
            raise ValueError(f"{path} is of diffusers; {checkpoints.FROM_DIFFUSERS}")
        raise FileNotFoundError(
            f"{path} holds no ema.safetensors, which `dit finetune` writes at its end; expected a checkpoint"
        )
    return path / "ema.safetensors" if path.is_dir() else path


def whole_name(path):
    """A checkpoint as any folder names it: by its whole path, or by the name under which it ships."""
    return path if is_shipped(path) else str(pathlib.Path(path).resolve())


def header(path):
    """What `finetune` says of a file or folder that it wrote: step and configuration; of others nothing.

    Of a network that ships with dgtoy its classes, and the base of a fine-tune.
    """
    if is_shipped(path):
        facts = shipped.facts(path)
        return {k: facts[v] for k, v in dict(classes="classes", pretrained="base").items() if v in facts}
    return checkpoints.header(weights_file(path))


def null_is_trained(path):
    """Whether the null label of a fine-tune was. `finetune` begins with a new label table, whose last row
    stays as it was drawn without label dropout."""
    return header(path).get("dropout") != 0


def warn_of_null(path, use):
    """Warn where the null label of a fine-tune was never trained. use: what asks for it."""
    if not null_is_trained(path):
        warnings.warn(
            f"{path} was trained with dropout 0, so its null label never was, and {use} asks for it;"
            " expected a fine-tune with --dropout above 0, as 0.1",
            stacklevel=3,
        )


def pretrained_net(path, device="cpu", num_heads=None):
    """The network of a checkpoint, or by name one that comes with the library; that of a LoRA is added to its
    base.  -> VP or Flow

    Raises FileNotFoundError as `weights_file`, ValueError for a name of another kind of network.
    """
    if is_shipped(path):
        net = shipped.load(path, device)
        if not isinstance(net, VP | Flow):
            raise ValueError(
                f"pretrained {path} is of kind {type(net).__name__}; expected {', '.join(READY)}"
            )
        if num_heads not in (None, net.config["num_heads"]):
            raise ValueError(f"num_heads is {num_heads}; {path} has {net.config['num_heads']}")
        return net
    base = header(path).get("pretrained")
    if header(path).get("rank") and base:
        tuned = load(path, base, num_heads=num_heads)
        step = {name: p.double() for name, p in tuned.params.items()}  # float64: alike on every machine
        return shipped.with_lora(pretrained_net(base, num_heads=num_heads), step, tuned.null, path).to(device)
    net = preconditioned(load_pretrained(weights_file(path), num_heads=num_heads)).to(device)
    if isinstance(net, VP) and "step" not in header(path):  # what a fine-tune starts from has been asked
        warn_of_opposite(net, path)
    return net


@torch.no_grad()
def warn_of_opposite(net, path):
    """Warn of a `VP` whose network answers noise, at time 0, with its opposite.

    A SiT does, to which that is pure noise, and so does what was trained by `EDM`; their files have DiT's
    names. Who predicts noise finds some of it in noise, at every frequency, as Wiener's filter does.
    """
    x = torch.randn(1, *net.shape, generator=torch.Generator().manual_seed(0)).to(net.device)
    out = net.predict(x, torch.zeros_like(x[:, 0, 0, 0]), torch.tensor([net.null], device=net.device))
    if torch.cosine_similarity(out[:, : x.shape[1]].flatten(), x.flatten(), 0) < -0.5:
        warnings.warn(
            f"{path} is read as a DiT that predicts noise, and answers noise with its opposite; expected, of"
            f" a SiT, a file by dgtoy.dit.save_checkpoint(SiT(load_pretrained({str(path)!r})).net, FILE)",
            stacklevel=3,
        )


def adapted(net, num_classes, rank=0, seed=0):
    """A pre-trained network with a fresh label table for new classes, and a LoRA where rank is not 0.

    -> VP or Flow. Raises ValueError for a rank above the network's width.
    """
    check_whole("rank", rank, 0)
    return add_lora(net, num_classes, rank, seed) if rank else net.with_classes(num_classes, seed)


def base_checksum(net):
    """The checksum of the weights that a fine-tune starts from: all but adapters and label tables."""
    weights = net.net.state_dict()
    return weights_checksum({k: v for k, v in weights.items() if "lora_" not in k and "y_embedder" not in k})


def load(path, pretrained=None, device="cpu", num_heads=None):
    """A fine-tune from a file: what `finetune` wrote, or any DiT checkpoint; a LoRA on top of its
    `pretrained` checkpoint.  -> VP or Flow

    Raises ValueError for a LoRA without it, or on top of another network than it was trained on.
    """
    made = header(path)
    if not made.get("rank"):
        return pretrained_net(path, device, num_heads)
    if pretrained is None:
        raise ValueError(
            f"{path} holds a LoRA alone; expected --pretrained, the checkpoint that it was trained on"
        )
    tensors = read_safetensors(weights_file(path))[0]
    classes = len(tensors["y_embedder.finetuned.embedding_table.weight"]) - 1
    tuned = adapted(pretrained_net(pretrained, device, num_heads), classes, made["rank"])
    shapes = {name: p.shape for name, p in tuned.params.items()}
    if shapes != {name: value.shape for name, value in tensors.items()}:
        raise ValueError(
            f"{path} holds {len(tensors)} trained weights that do not fit {pretrained};"
            f" expected those of a LoRA of rank {made['rank']} on it"
        )
    base = base_checksum(tuned)
    if made.get("base", base) != base:
        raise ValueError(
            f"{path} is a LoRA on the base {made['base']}; {pretrained} is {base}, expected the one it was"
            " trained on"
        )
    for name, p in tuned.params.items():
        p.data.copy_(tensors[name])
    return tuned


def pair(finetuned, pretrained, device="cpu", num_heads=None):
    """A fine-tune and the pre-trained model that guides it, from files: two networks, or one with its adapter
    on and off.  -> two of VP or Flow

    Raises ValueError if the two do not share their latents.
    """
    tuned = load(finetuned, pretrained, device, num_heads)
    if header(finetuned).get("rank"):
        return tuned, lora_guide(tuned)
    guide = pretrained_net(pretrained, device, num_heads)
    if tuned.shape != guide.shape:
        raise ValueError(
            f"{pretrained} makes latents {guide.shape}, {finetuned} {tuned.shape}; a guide must share them"
        )
    return tuned, guide


def guided_by(method, finetuned, pretrained=None, weaker=None, device="cpu", num_heads=None):
    """A fine-tune and what guides it under a method of `sample`, from files.  -> two of VP or Flow, or one
    and None, and the checksums of their files by name

    pretrained: by default what the fine-tune says that it was tuned from. weaker: autoguidance's guide, an
    earlier checkpoint of the same fine-tune. Warns of a null label that was never trained. Raises ValueError
    if a guide is missing, of other classes, given to another method, changed since, or the fine-tune itself.
    """
    if (method == "autoguidance") != (weaker is not None):
        wanted = "an earlier checkpoint of the same fine-tune"
        if weaker is not None:
            wanted = "none, as autoguidance alone takes one"
        raise ValueError(f"weaker is {weaker} with method {method}; expected {wanted}")
    made, base = header(finetuned), pretrained
    if not base and (method == "dog" or made.get("rank")):
        base = made.get("pretrained")
    files = dict(finetuned=finetuned, guide=weaker or base)
    checksums = {name: checksum(weights_file(path)) for name, path in files.items() if path}
    if checksums.get("guide") == checksums["finetuned"]:
        raise ValueError(
            f"{'weaker' if weaker else 'pretrained'} is {weaker or base}, the fine-tune itself; expected the"
            f" {'earlier checkpoint' if weaker else 'model that it was tuned from'}"
        )
    if weaker:
        came, expected = header(weaker).get("classes"), made.get("classes")
        if came != expected:
            raise ValueError(f"weaker has classes {came}; expected {expected}, as finetuned")
        tuned, guide = (load(path, base, device, num_heads) for path in (finetuned, weaker))
    elif base:
        tuned, guide = pair(finetuned, base, device, num_heads)
        told = None if pretrained or made.get("rank") else made.get("base")  # of a LoRA `load` has asked
        if told not in (None, base_checksum(guide)):
            raise ValueError(
                f"{base} has changed since {finetuned} was tuned from it; expected --pretrained as it was"
            )
    else:
        tuned, guide = load(finetuned, None, device, num_heads), None
    if method == "cfg":
        warn_of_null(finetuned, "CFG")
    elif method == "dog" and base:
        warn_of_null(base, "Domain Guidance")
    return tuned, guide, checksums

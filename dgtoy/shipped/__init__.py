"""The networks that the course ships, and the recipe that made them: `python -m dgtoy weights --device cuda`.

NAMES lists them. Each is one safetensors file in float16 beside this page, with a page of JSON that holds its SHA-256,
its recipe and how well it did. A file is read only if its checksum is the one written there.
"""

import dataclasses
import hashlib
import json
import pathlib
import time

from tqdm import tqdm

from ..checkpoint import read_safetensors, write_safetensors, write_text
from ..course.records import provenance
from ..course.worlds.features import WIDE, FeatureNet, accuracy, train
from ..course.worlds.glyphs import World
from ..dit import EDM, VP, DiT, load_weights
from ..train import Recipe, fit

FOLDER = pathlib.Path(__file__).parent
NOISE = (-1.0, 1.4)  # mean and std of ln sigma in every training on images


@dataclasses.dataclass(frozen=True)
class Config:
    """How the shipped networks are made."""

    hidden_size: int = 192
    depth: int = 6
    num_heads: int = 3
    patch_size: int = 4
    pretrain: Recipe = Recipe(steps=16_000, batch=1024, lr=5e-4, ema=0.9995, noise=NOISE)
    feature_steps: int = 8000
    feature_batch: int = 1024


@dataclasses.dataclass(frozen=True)
class Tiny:
    """How "dit" is made: DiT's own process on the source's glyphs as latents of 4 x 16 x 16."""

    network: dict = dataclasses.field(
        default_factory=lambda: dict(
            input_size=16, patch_size=2, in_channels=4, hidden_size=128, depth=6, num_heads=4
        )
    )
    images: int = 3_000_000
    batch: int = 1024
    lr: float = 2e-3


RECIPES = {"features": Config(), "glyphs": Config(), "dit": Tiny()}
NAMES = tuple(RECIPES)


def pretrain(config, seed=0, device="cpu", progress=False):
    """A DiT trained on the source world.  -> EDM with the averaged weights"""
    source = World()
    net = (
        EDM(
            DiT(
                source.size,
                config.patch_size,
                3,
                config.hidden_size,
                config.depth,
                config.num_heads,
                source.num_classes,
                learn_sigma=False,
                seed=seed,
            ),
            seed=seed,
        )
        .to(device)
        .compile()
    )
    ema = net.clone()
    steps = fit(net, source, config.pretrain, ema)
    for _ in tqdm(steps, "pre-train", config.pretrain.steps, disable=not progress, mininterval=10):
        pass
    return ema


def judge(config, device="cpu", progress=False):
    """A feature network trained on the wide world, in evaluation mode."""
    net = FeatureNet().to(device)
    for _ in tqdm(
        train(net, config.feature_steps, config.feature_batch, device=device),
        "features",
        config.feature_steps,
        disable=not progress,
        mininterval=10,
    ):
        pass
    return net


def pretrain_dit(config, seed=0, device="cpu", progress=False):
    """A DiT trained on the source world by the pre-training of the study at scale.  -> VP with the averaged weights"""
    from ..course.experiments import scale, scale_setup

    source = World()
    net = VP(DiT(**config.network, num_classes=source.num_classes, velocity=True, seed=seed)).to(device)
    training = dataclasses.replace(scale.Config(), batch=config.batch, lr=config.lr)
    return scale_setup.pretrain(net, source, training, config.images, seed, progress)


def make(name, config=None, device="cpu", folder=FOLDER, progress=False):
    """Train a network of NAMES and write NAME.safetensors in float16 with NAME.json, its checksum, recipe and facts.  -> the facts"""
    started, config = time.time(), config or RECIPES[name]
    if name == "features":
        net = judge(config, device, progress)
        found = dict(
            accuracy={
                world: accuracy(net, w, device=device) for world, w in (("source", World()), ("wide", WIDE))
            }
        )
    elif name == "glyphs":
        net = pretrain(config, device=device, progress=progress)
        found, net = dict(config=net.net.config, sigma_data=net.sigma_data), net.net
    else:
        net = pretrain_dit(config, device=device, progress=progress).net
        found = dict(config=net.config)
    return _write(name, net, config, found, started, device, folder)


def _write(name, net, config, found, started, device, folder):
    path = pathlib.Path(folder) / f"{name}.safetensors"
    kept = {
        k: v.half() for k, v in net.state_dict().items() if k != "pos_embed" or name == "dit"
    }  # "dit" is an ordinary DiT checkpoint
    write_safetensors(path, kept, dict(name=name))
    found = dict(
        sha256=_sum(path),
        recipe=json.loads(json.dumps(dataclasses.asdict(config))),
        provenance=provenance(started, device),
        **found,
    )
    write_text(path.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    return found


def load(name, device="cpu", folder=FOLDER):
    """ "glyphs", the pre-trained DiT -> EDM, "dit", a smaller one of DiT's own process -> VP, or "features", the judge -> FeatureNet; in float32.

    Raises ValueError if the file's checksum is not the one in its JSON or that is damaged, FileNotFoundError if one is missing, each with the remedy.
    """
    if name not in NAMES:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(NAMES)}")
    path = pathlib.Path(folder) / f"{name}.safetensors"
    missing = [p.name for p in (path, path.with_suffix(".json")) if not p.exists()]
    if missing:
        raise FileNotFoundError(
            f"{missing[0]} is missing from {path.parent.name}; `python -m dgtoy weights --device cuda` makes it"
        )
    known, found = facts(name, folder), _sum(path)
    if found != known["sha256"]:
        raise ValueError(
            f"{path.name} has SHA-256 {found[:12]}...; expected {known['sha256'][:12]}...: the file is damaged, fetch it again"
        )
    state = {k: v.float() for k, v in read_safetensors(path)[0].items()}
    if name == "features":
        net = FeatureNet()
        load_weights(net, state, path.name)
        return net.eval().to(device)
    net = DiT(**known["config"])
    load_weights(net, state | {"pos_embed": net.pos_embed}, path.name)
    if name == "dit":
        return VP(net).to(device)
    return EDM(net, known["sigma_data"]).to(device).compile()


def facts(name, folder=FOLDER):
    """What NAME.json says of a shipped network: checksum, recipe, provenance, sizes or accuracy."""
    path = pathlib.Path(folder) / f"{name}.json"
    try:
        return json.loads(path.read_text())
    except ValueError:
        raise ValueError(
            f"{path.name} is not a complete page of JSON: the file is damaged, fetch it again"
        ) from None


def _sum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""How the shipped networks are made: `python -m dgtoy weights --device cuda`."""

import dataclasses
import json
import pathlib
import time

from tqdm import tqdm

from .. import shipped
from ..checkpoint import write_safetensors, write_text
from ..dit import EDM, VP, DiT
from ..shipped.judge import FeatureNet
from ..train import Recipe, TrainingConfig, fit
from .records import provenance
from .worlds import features
from .worlds.glyphs import World


@dataclasses.dataclass(frozen=True)
class Config:
    """How "glyphs" is made: a DiT in pixels, trained on the source."""

    hidden_size: int = 192
    depth: int = 6
    num_heads: int = 3
    patch_size: int = 4
    pretrain: Recipe = Recipe(steps=16_000, batch=1024, lr=5e-4, ema=0.9995, P_mean=-1.0, P_std=1.4)


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


RECIPES = {
    "features": TrainingConfig(steps=8000, batch=1024, dropout=0.0, ema=0.0, schedule="cosine"),
    "glyphs": Config(),
    "dit": Tiny(),
}


def pretrain(config, seed=0, device="cpu", progress=False):
    """A DiT trained on the source world.  -> EDM with the averaged weights"""
    source = World()
    network = DiT(
        source.size,
        config.patch_size,
        3,
        config.hidden_size,
        config.depth,
        config.num_heads,
        source.num_classes,
        learn_sigma=False,
        seed=seed,
    )
    net = EDM(network, seed=seed).to(device).compile()
    ema = net.clone()
    _run(fit(net, source, config.pretrain, ema), "pre-train", config.pretrain.steps, progress)
    return ema


def judge(config, device="cpu", progress=False):
    """A feature network trained on the wide world, in evaluation mode."""
    net = FeatureNet().to(device)
    _run(features.train(net, config), "features", config.steps, progress)
    return net


def pretrain_dit(config, seed=0, device="cpu", progress=False):
    """A DiT trained on the source world by the pre-training of the study at scale.  -> VP with the averaged
    weights"""
    from .experiments import scale_setup

    source = World()
    net = VP(DiT(**config.network, num_classes=source.num_classes, velocity=True, seed=seed)).to(device)
    return scale_setup.pretrain(net, source, config, seed, progress)


def _run(steps, what, count, progress):
    for _ in tqdm(steps, what, count, disable=not progress, mininterval=10):
        pass


def make(name, config=None, device="cpu", folder=shipped.FOLDER, progress=False):
    """Train a network of `shipped.NAMES`; write NAME.safetensors in float16 and NAME.json: its checksum,
    recipe and facts.  -> the facts"""
    started, config = time.time(), config or RECIPES[name]
    if name == "features":
        net = judge(config, device, progress)
        worlds = dict(source=World(), wide=features.WIDE)
        accuracy = {world: features.accuracy(net, w, device=device) for world, w in worlds.items()}
        found = dict(config=net.config, accuracy=accuracy)
    elif name == "glyphs":
        made = pretrain(config, device=device, progress=progress)
        net, found = made.net, dict(config=made.net.config, sigma_data=made.sigma_data)
    else:
        net = pretrain_dit(config, device=device, progress=progress).net
        found = dict(config=net.config)
    path = pathlib.Path(folder) / f"{name}.safetensors"
    kept = {k: v.half() for k, v in net.state_dict().items() if k != "pos_embed" or name == "dit"}
    write_safetensors(path, kept, dict(name=name))  # "dit" is an ordinary DiT checkpoint, with its positions
    found = dict(
        sha256=shipped.checksum(path),
        recipe=json.loads(json.dumps(dataclasses.asdict(config))),
        provenance=provenance(started, device),
        **found,
    )
    write_text(path.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    return found

"""The networks that the course ships, and the recipe that made them: `python -m dgtoy weights --device cuda`.

Each is one safetensors file in float16 beside this page; manifest.json holds its SHA-256, its recipe and how well it
did. A file is read only if its checksum is the manifest's.
"""

import dataclasses
import hashlib
import json
import pathlib
import time

import torch
from tqdm import tqdm

from ..checkpoint import read_safetensors, write_safetensors
from ..dit import EDM, DiT, load_weights
from ..experiments.base import provenance, write_text
from ..features import WIDE, FeatureNet, accuracy, train
from ..glyphs import World
from ..train import Recipe, fit

FOLDER = pathlib.Path(__file__).parent
NOISE = (-1.0, 1.4)                                        # mean and std of ln sigma in every training on images


@dataclasses.dataclass(frozen=True)
class Config:
    """How the shipped networks are made."""

    hidden_size: int = 192
    depth: int = 6
    num_heads: int = 3
    patch_size: int = 4
    pretrain: Recipe = Recipe(steps=16_000, batch=1024, lr=5e-4, ema=0.9995, noise=NOISE)
    feature_steps: int = 6000
    feature_batch: int = 1024


def pretrain(config, seed=0, device="cpu", progress=False, source=None, at=()):
    """A DiT trained on the source world.  -> EDM with the averaged weights; with `at`, a list of those after each of these steps too"""
    source = source or World()
    net = EDM(DiT(source.size, config.patch_size, 3, config.hidden_size, config.depth, config.num_heads, source.num_classes,
                  learn_sigma=False, seed=seed), seed=seed).to(device)
    ema, kept = net.clone(), []
    steps = fit(net.compile(), source, config.pretrain, ema)
    for step in tqdm(steps, "pre-train", config.pretrain.steps, disable=not progress, mininterval=5):
        if step.step in at:
            kept.append(ema.clone())
    return (ema, kept) if at else ema


def judge(config, device="cpu", progress=False):
    """A feature network trained on the wide world, in evaluation mode."""
    net = FeatureNet().to(device)
    for _ in tqdm(train(net, config.feature_steps, config.feature_batch, device=device), "features", config.feature_steps,
                  disable=not progress, mininterval=5):
        pass
    return net


def make(config, device="cpu", folder=FOLDER, progress=False):
    """Train both networks and write them with their manifest.  -> the manifest"""
    started = time.time()
    features = judge(config, device, progress)
    seconds = [time.time() - started]
    net = pretrain(config, device=device, progress=progress)
    seconds.append(time.time() - started - seconds[0])
    facts = {"features": dict(accuracy={"source": accuracy(features, World(), device=device), "wide": accuracy(features, WIDE, device=device)}),
             "glyphs": dict(config=net.net.config, sigma_data=net.sigma_data)}
    manifest = dict(config=json.loads(json.dumps(dataclasses.asdict(config))), provenance=provenance(started, device), files={})
    for (name, fact), module, s in zip(facts.items(), (features, net.net), seconds, strict=True):
        path = pathlib.Path(folder) / f"{name}.safetensors"
        write_safetensors(path, {k: v.half() for k, v in module.state_dict().items() if k != "pos_embed"}, dict(name=name))
        manifest["files"][name] = dict(sha256=_sum(path), seconds=round(s, 1), **fact)
    write_text(pathlib.Path(folder) / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    return manifest


def load(name, device="cpu", folder=FOLDER):
    """"glyphs", the pre-trained DiT -> EDM, or "features", the judge -> FeatureNet; in float32, ready to use.

    Raises ValueError if the file's checksum is not the manifest's, FileNotFoundError if it is missing, each with the remedy.
    """
    path = pathlib.Path(folder) / f"{name}.safetensors"
    manifest = path.with_name("manifest.json")
    if not path.exists() or not manifest.exists():
        raise FileNotFoundError(f"{path.name} or its manifest is missing from {path.parent.name}; `python -m dgtoy weights --device cuda` makes them")
    fact, found = json.loads(manifest.read_text())["files"][name], _sum(path)
    if found != fact["sha256"]:
        raise ValueError(f"{path.name} has SHA-256 {found[:12]}...; the manifest says {fact['sha256'][:12]}...: fetch the file again")
    state = {k: v.float() for k, v in read_safetensors(path)[0].items()}
    if name == "features":
        net = FeatureNet()
        load_weights(net, state, path.name)
        return net.eval().to(device)
    net = DiT(**fact["config"])
    load_weights(net, state | {"pos_embed": net.pos_embed}, path.name)
    return EDM(net, fact["sigma_data"]).to(device).compile()


def _sum(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()

"""How the shipped networks are made: `python -m dgtoy weights --device cuda`."""

import dataclasses
import functools
import json
import pathlib
import time

import torch
from tqdm import tqdm

from .. import distributed, shipped
from ..checkpoint import one_byte, write_safetensors, write_text
from ..dit import EDM, DiT, Flow
from ..interop import add_lora
from ..pipeline import finetune
from ..pipeline.objectives import FlowObjective
from ..shipped.judge import FeatureNet
from ..train import Recipe, fit
from ..trainer import Trainer, TrainingConfig, generator
from .records import provenance
from .worlds import features, kmeans, photos
from .worlds.glyphs import World


@dataclasses.dataclass(frozen=True)
class Config:
    """How "glyphs" is made: a DiT in pixels, trained on the source. Its file has one byte a weight."""

    hidden_size: int = 192
    depth: int = 6
    num_heads: int = 3
    patch_size: int = 4
    pretrain: Recipe = Recipe(steps=16_000, batch=1024, lr=5e-4, ema=0.9995, P_mean=-1.0, P_std=1.4)


@dataclasses.dataclass(frozen=True)
class Photos:
    """How "photos64" is made: a DiT in pixels, a flow, trained on the source of photographs.

    Its file has one byte a weight, hence 15.3 M weights; of the shapes that fit, 8 blocks of 320 learned
    as well as 12 of 256, and faster.
    """

    network: dict = dataclasses.field(
        default_factory=lambda: dict(
            input_size=64,
            patch_size=4,
            in_channels=3,
            hidden_size=320,
            depth=8,
            num_heads=5,
            learn_sigma=False,
            flow=True,
        )
    )
    train: TrainingConfig = TrainingConfig(
        steps=15_180,
        batch=1024,
        lr=1e-3,
        betas=(0.9, 0.95),
        ema=0.9995,
        clip=1.0,
        muon=3.0,
        schedule="wsd",
        warmup=300,
        decay=0.6,
    )


@dataclasses.dataclass(frozen=True)
class FineTune:
    """How "photos64-TARGET" is made: a LoRA on "photos64", trained on all that its target sets apart."""

    target: str
    train: finetune.Config = finetune.Config(
        steps=1000,
        batch=128,
        lr=1e-3,
        betas=(0.9, 0.95),
        ema=0.999,
        clip=1.0,
        schedule="wsd",
        warmup=50,
        decay=0.5,
        rank=8,
    )


STUDY = {  # further pre-trained models of the studies, by the last part of their folder's name
    "second": Photos(  # DiT-S: 32.5 M weights
        Photos().network | dict(hidden_size=384, depth=12, num_heads=6),
        dataclasses.replace(Photos().train, steps=10_000),
    ),
    "large": Photos(  # DiT-B: 129.7 M weights
        Photos().network | dict(hidden_size=768, depth=12, num_heads=12),
        dataclasses.replace(Photos().train, steps=6800, lr=7e-4),
    ),
}
RECIPES = {
    "features": TrainingConfig(steps=8000, batch=1024, dropout=0.0, ema=0.0, schedule="cosine"),
    "glyphs": Config(),
    "photos64": Photos(),
    "patches": kmeans.Config(),
} | {name: FineTune(name.partition("-")[2]) for name in shipped.FINE_TUNES}


def pretrain(config, device="cpu", progress=False):
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
    )
    net = EDM(network).to(device).compile()
    ema = net.clone()
    _run(fit(net, source, config.pretrain, ema), "pre-train", config.pretrain.steps, progress)
    return ema


def judge(config, device="cpu", progress=False):
    """A feature network trained on the wide world, in evaluation mode."""
    net = FeatureNet().to(device)
    _run(features.train(net, config), "features", config.steps, progress)
    return net


def pretrain_photos(config, data, seed=0, device="cpu", state=None, progress=False):
    """A DiT trained on photographs, a `Photos` of `worlds.photos`.  -> Flow with the averaged weights

    state: a folder that holds the run in parts of 16 MiB, from which it goes on, on any number of processes;
    by default nothing is kept.
    """
    net = Flow(DiT(**config.network, num_classes=len(data.classes), seed=seed), seed).to(device)
    data, ema = data.to(device), net.clone()
    trainer = Trainer(net.compile_blocks(), FlowObjective(), config.train, ema)
    batch_fn = functools.partial(photo_batch, data, seed, config.train, net.null)
    if state is None:
        steps = trainer.run(batch_fn)
    else:
        trainer.origin = dict(data=data.fingerprint)
        trainer.resume(state)
        steps = trainer.saved(batch_fn, state, every=2000)
    _run(steps, "pre-train", config.train.steps, progress)
    return ema


def photo_batch(data, seed, config, null, step):
    """What step `step` sees, drawn where the pictures are, of which a process takes its share.
    -> x0, label, time, noise; see `pipeline.finetune.batch_of`"""
    mine, device = distributed.local(config.batch), data.x.device
    g = generator(seed, step, device)
    rows = torch.randint(len(data), (config.batch,), generator=g, device=device)
    flip, drop = torch.rand(2, config.batch, generator=g, device=device)
    time = FlowObjective.times(config.batch, g)
    eps = torch.randn(config.batch, *data.shape, generator=g, device=device)
    x0, label = data.draw(rows[mine], flip[mine] < 0.5)
    return x0, torch.where(drop[mine] < config.dropout, null, label), time[mine], eps[mine]


def _run(steps, what, count, progress):
    for _ in tqdm(steps, what, count, disable=not progress, mininterval=10):
        pass


def make(name, config=None, device="cpu", folder=shipped.FOLDER, state=None, progress=False):
    """Train a network of `shipped.NAMES`; write NAME.safetensors and NAME.json: its checksum, recipe and
    facts.  -> the facts

    state: of a long training, the folder from which it goes on. Of several processes the first writes, and
    the others return None.
    """
    started, config = time.time(), config or RECIPES[name]
    kept, found = MAKERS[name.partition("-")[0]](config, device, state, progress)
    if distributed.rank() == 0:
        found = _written(name, config, kept, found, started, device, pathlib.Path(folder))
    distributed.barrier()  # a fine-tune reads what was written
    return found if distributed.rank() == 0 else None


def _written(name, config, kept, found, started, device, folder):
    """Both files of a network.  -> its facts"""
    path = folder / f"{name}.safetensors"
    write_safetensors(path, kept, dict(name=name))
    found = dict(
        sha256=shipped.checksum(path),
        recipe=json.loads(json.dumps(dataclasses.asdict(config))),
        provenance=provenance(started, device),
        **found,
    )
    write_text(path.with_suffix(".json"), json.dumps(found, indent=1) + "\n")
    return found


def _features(config, device, state, progress):
    """What the file of a network holds, and the facts beside it; so do the following."""
    net = judge(config, device, progress)
    worlds = dict(source=World(), wide=features.WIDE)
    accuracy = {world: features.accuracy(net, w, device=device) for world, w in worlds.items()}
    return halves(net), dict(config=net.config, accuracy=accuracy)


def _glyphs(config, device, state, progress):
    made = pretrain(config, device=device, progress=progress)
    return one_byte(without(made.net)), dict(config=made.net.config, sigma_data=made.sigma_data)


def _photos64(config, device, state, progress):
    if isinstance(config, FineTune):
        return _finetuned(config, device, progress)
    data = photos.source().train
    net = pretrain_photos(config, data, device=device, state=state, progress=progress).net
    return one_byte(without(net)), dict(config=net.config, classes=data.classes)


def _patches(config, device, state, progress):
    net = kmeans.learn(photos.source().train.x, config)
    return halves(net), dict(config=net.config)


def _finetuned(config, device, progress):
    data, base = photos.target(config.target).train, shipped.load("photos64", device)
    net = add_lora(base, len(data.classes), config.train.rank, config.train.seed)
    ema = net.clone()
    trainer, batch_fn = finetune.training(net, data.to(device), config.train, ema)
    _run(trainer.run(batch_fn), config.target, config.train.steps, progress)
    return {k: v.half() for k, v in ema.params.items()}, dict(base="photos64", classes=data.classes)


MAKERS = dict(features=_features, glyphs=_glyphs, photos64=_photos64, patches=_patches)


def without(net):
    """The weights of a network but those that it knows by itself."""
    return {k: v for k, v in net.state_dict().items() if k not in ("pos_embed", "flow")}


def halves(net):
    """The same in float16."""
    return {k: v.half() for k, v in without(net).items()}

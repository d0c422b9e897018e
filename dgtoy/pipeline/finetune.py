"""Fine-tune a DiT on cached latents by the paper's recipe, on one process or many: the same global batch, the
same run.

What step t sees depends on (seed, t) alone: its rows, mirrors, times, noise and dropped labels are drawn for
the whole batch on the CPU, and each process takes its share. So a run on two processes equals one on one, and
a resumed run the one that was never stopped.
"""

import dataclasses
import functools
import json
import math
import pathlib
import warnings
from typing import Protocol

import torch

from .. import distributed
from ..checkpoint import check_room, write_safetensors
from ..checks import SEEDS, check_points, check_whole, shown
from ..dit import VP, Flow, Preconditioned
from ..dit.checkpoints import header
from ..gmm import check_label
from ..trainer import Trainer, TrainingConfig, check_ranges, generator
from .manifest import data_checksum
from .models import adapted, base_checksum, pretrained_net, warn_of_null
from .objectives import DogFit, FlowObjective, NoiseObjective, check_kind, objective_of

LOSS_BATCHES = 16  # from which the pre-trained model's own loss is known


@dataclasses.dataclass(frozen=True)
class Config(TrainingConfig):
    """The paper's recipe: AdamW without weight decay, label dropout, an average of the weights.

    rank: of a LoRA adapter instead of a full fine-tune. checkpointing: recompute each block's activations in
    the backward pass, for less memory. keep: steps whose averaged weights are kept. Raises ValueError for
    values out of range.
    """

    steps: int = 24_000
    batch: int = 32
    lr: float = 1e-4
    ema: float = 0.9999
    seed: int = 0
    rank: int = 0
    checkpointing: bool = False
    keep: tuple = ()

    def __post_init__(self):
        super().__post_init__()
        check_ranges(self, steps="[1, inf)", rank="[0, inf)", seed=SEEDS)
        if not isinstance(self.checkpointing, bool):
            raise TypeError(f"checkpointing is {shown(self.checkpointing)}; expected True or False")
        if not isinstance(self.keep, tuple | list):
            raise TypeError(f"keep is {shown(self.keep)}; expected a tuple of steps")
        never = [step for step in self.keep if step not in range(1, self.steps + 1)]
        if never:
            raise ValueError(f"keep is {never[0]}; expected steps from 1 to {self.steps}")


class Data(Protocol):
    """What fine-tuning asks of a data set on the CPU: `Latents` and `LatentTensors` give it."""

    shape: tuple  # (C, h, w) of one image
    classes: list
    fingerprint: str  # of all that it holds

    def __len__(self): ...

    def draw(self, rows, flip, z):
        """x0 (B, C, h, w) and label (B,) of images `rows` (B,), mirrored where `flip` (B,), their own noise
        from normals z."""


class LatentTensors:
    """`Data` in memory: x0 (N, C, h, w), label (N,) of so many classes. None is mirrored.

    Raises TypeError or ValueError for what is no such pair, or a label out of range.
    """

    def __init__(self, x0, label, num_classes):
        check_points(x0=x0)
        label = check_label(label, check_whole("num_classes", num_classes, 0))
        if x0.ndim != 4 or not len(x0) or label.shape != x0.shape[:1]:
            raise ValueError(
                f"x0, label have shapes {tuple(x0.shape)}, {tuple(label.shape)}; expected (N, C, h, w), (N,)"
            )
        self.x0, self.label = x0.cpu().float(), label.cpu()
        self.shape, self.classes = tuple(x0.shape[1:]), list(range(num_classes))

    @property
    def fingerprint(self):
        return data_checksum((self.x0, self.label), self.classes)

    def __len__(self):
        return len(self.x0)

    def draw(self, rows, flip, z):
        return self.x0[rows], self.label[rows]


def batch_of(data, step, config, null, times=NoiseObjective.times):
    """What step `step` (from 0) trains on: x0 (B, C, h, w), label, time (B,), noise (B, C, h, w), on the CPU.

    Images come in a fresh random order in every pass over the data; labels are dropped to `null`.
    """
    first, n = step * config.batch, len(data)
    passes = range(first // n, (first + config.batch - 1) // n + 1)
    order = torch.cat([_order(n, config.seed, turn) for turn in passes])
    rows = order[first % n :][: config.batch]
    g = generator(config.seed, step)
    flip, drop = torch.rand(2, config.batch, generator=g)
    time = times(config.batch, g)
    z, eps = torch.randn(2, config.batch, *data.shape, generator=g)
    x0, label = data.draw(rows, flip < 0.5, z)
    return x0, torch.where(drop < config.dropout, null, label), time, eps


@functools.lru_cache(maxsize=2)  # a batch may reach from one pass into the next
def _order(n, seed, turn):
    """The order of one pass over n images."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(7_919 * (seed + 1) + turn))


def finetune(net, data, config, out, every=1000, objective=None, told=None):
    """Train a `VP` or `Flow` in place; a generator of `Step`. OUT holds `last.safetensors`, from which it
    goes on, and at the end `ema.safetensors`.

    data: see `Data`. objective: by default that of the network's kind, `objective_of`. told: what else the
    weights' header says, by name. Processes of a group (`distributed.join`)
    share the batch. The averaged weights are written by their official names, as any DiT checkpoint; of a
    LoRA fine-tune only what trained. Names of the classes and fingerprints of data and base travel with them.
    Raises TypeError for a network of another kind than the objective's, ValueError for data of another shape
    or number of classes, a rank without an adapter or an adapter without one, and to go on in an OUT that was
    made from other data or another base; OSError where the disk has no room for what will be written;
    FloatingPointError at a non-finite loss, naming the step. A KeyboardInterrupt that is thrown into the
    generator saves the state first.
    """
    out = pathlib.Path(out)
    check_kind(net, Preconditioned)
    lora = any("lora_" in name for name in net.params)
    if lora != (config.rank > 0):
        raise ValueError(
            f"rank is {config.rank} and net has {'an' if lora else 'no'} adapter;"
            " expected a rank with an adapter, 0 without"
        )
    check_whole("every", every, 1)
    if data.shape != net.shape or len(data.classes) != net.null:
        raise ValueError(
            f"data has latents {data.shape} of {len(data.classes)} classes;"
            f" expected {net.shape} and {net.null}"
        )
    told = dict(told or {}, classes=data.classes)
    try:
        json.dumps(told)
    except TypeError as e:  # which would stop the run at its end
        raise TypeError(f"told and data.classes are for a header; expected what JSON holds ({e})") from None
    distributed.local(config.batch)  # refuses a batch that the processes cannot share
    ema = net.clone()
    trainer, batch_fn = training(net, data, config, ema, objective)
    trainer.origin = dict(data=data.fingerprint, base=base_checksum(net))
    _check_left(out, dict(trainer.origin, step=config.steps))
    trainer.resume(out / "last.safetensors")
    out.mkdir(parents=True, exist_ok=True)
    if trainer.step < config.steps:
        check_room(out, 2 * trainer.nbytes)  # a state while the one before is there, and averages
    return _written(trainer, batch_fn, ema, out, every, told)


def _check_left(out, mine):
    """Raise ValueError for an OUT with the weights of another run and no state to go on from: they would be
    replaced by a run that begins anew. mine: what the weights of this one will say."""
    file = out / "ema.safetensors"
    if (out / "last.safetensors").exists() or not file.exists():
        return
    made = header(file)
    if {name: made.get(name) for name in mine} != mine:
        raise ValueError(
            f"{file}, of another run, is there without last.safetensors, from which one goes on; expected"
            " another --out, or delete it"
        )


def training(net, data, config, ema, objective=None):
    """A fine-tune that writes nothing.  -> its Trainer and what each step sees: `trainer.run(batch_fn)` is a
    generator of `Step`. Raises TypeError for a network of another kind than the objective's."""
    objective = objective or objective_of(net)
    if isinstance(objective, NoiseObjective):
        check_kind(net, VP)
    if isinstance(objective, FlowObjective):
        check_kind(net, Flow)
    if isinstance(objective, DogFit):
        check_kind(objective.guide, Flow, "guide")
    net.net.recompute = config.checkpointing

    def batch_fn(step):
        mine = distributed.local(config.batch)
        batch = batch_of(data, step, config, net.null, objective.times)
        return [a[mine].to(net.device, non_blocking=True) for a in batch]

    return Trainer(net, objective, config, ema), batch_fn


def averaged(net, data, config, at, objective=None):
    """Train a network in place and keep nothing on disk.  -> {step: the averaged weights, in a network of its
    kind} for every step in `at`"""
    ema, kept = net.clone(), {}
    trainer, batch_fn = training(net, data, config, ema, objective)
    for step in trainer.run(batch_fn):
        if step.step in at:
            kept[step.step] = ema.clone()
    return kept


def _written(trainer, batch_fn, ema, out, every, told):
    """The run, with averaged weights written at the steps that are kept and at the end, each before the state
    that lies behind it."""
    config = trainer.recipe

    def write(name):
        if distributed.rank() == 0:
            state = ema.params if config.rank else ema.net.state_dict()
            made = told | trainer.origin | dataclasses.asdict(config)
            made |= dict(step=trainer.step, config=ema.config)
            write_safetensors(out / f"{name}.safetensors", state, made)

    if trainer.step == config.steps and not (out / "ema.safetensors").exists():  # a finished run lost it
        write("ema")
    for step in trainer.run(batch_fn):
        done = step.step == config.steps
        if done or step.step in config.keep:
            write("ema" if done else f"ema-{step.step:06d}")
        if done or step.step % every == 0:
            trainer.save(out / "last.safetensors")
        try:
            yield step
        except KeyboardInterrupt:  # thrown in by the caller between two steps, where the state is whole
            trainer.save(out / "last.safetensors")
            raise


def start(pretrained, num_classes, config, device="cpu", num_heads=None):
    """What fine-tuning begins with: a pre-trained checkpoint with a fresh label table, and an adapter where
    config.rank asks for one.  -> VP or Flow"""
    net = pretrained_net(pretrained, device, num_heads)
    return adapted(net, num_classes, config.rank, config.seed).compile_blocks()


def remembered(out):
    """The fields of the recipe with which OUT was made, by name, and the steps done; of a new OUT none.

    A damaged state tells nothing here: going on from it says what is wrong.
    """
    told = header(pathlib.Path(out) / "last.safetensors")
    recipe, step = told.get("recipe"), told.get("step")
    if not isinstance(recipe, dict) or not isinstance(step, int):
        return {}, 0
    return {k: tuple(v) if isinstance(v, list) else v for k, v in recipe.items()}, step


@torch.no_grad()
def normal_loss(pretrained, data, config, device="cpu", num_heads=None, batches=LOSS_BATCHES):
    """The loss of the pre-trained model itself, with its null label, on batches of the kind that training
    sees and does not reach.

    A fine-tune that learns ends below the mean, and single batches scatter as these do.  -> mean, std from
    batch to batch. Raises FloatingPointError if it is not finite; warns where a linear filter does better.
    """
    net = pretrained_net(pretrained, device, num_heads)
    warn_of_null(pretrained, "its own loss, as Domain Guidance later,")
    net.amp = False
    objective, found = objective_of(net), []
    for step in range(config.steps, config.steps + batches):
        batch = batch_of(data, step, config, net.null, objective.times)
        x0, label, time, eps = (a.to(device) for a in batch)
        found.append(objective(net, x0, torch.full_like(label, net.null), time, eps))
    losses = torch.stack(found)
    mean, std = losses.mean().item(), losses.std().item()
    if not math.isfinite(mean):
        raise FloatingPointError(f"the loss of {pretrained} itself is {mean}; expected finite weights")
    linear = linear_loss(data, objective)
    if mean > linear:
        warnings.warn(
            f"{pretrained} denoises these images worse than a linear filter, {mean:.3f} against {linear:.3f}:"
            " they are far from what it was trained on, or of another size or codec; it will hardly guide",
            stacklevel=2,
        )
    return mean, std


def linear_loss(data, objective, n=256):
    """The loss of the best linear filter for these images, Wiener's: what takes no network.

    The images' mean power per frequency s^2 and the noise level say it: see `linear` of the objectives.
    """
    rows = torch.arange(min(n, len(data)))
    x0, _ = data.draw(rows, torch.zeros(len(rows), dtype=torch.bool), torch.zeros(len(rows), *data.shape))
    centred = x0 - x0.mean((0, 2, 3), keepdim=True)
    power = torch.fft.fft2(centred, norm="ortho").abs().square().mean(0)  # (C, h, w)
    times = objective.times(1000, torch.Generator().manual_seed(0))
    return torch.stack([objective.linear(power, time).mean() for time in times]).mean().item()

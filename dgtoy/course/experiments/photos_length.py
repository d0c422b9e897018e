"""Photographs: how long to fine-tune, and what guidance still gives once the loss on other pictures no longer
falls. (C36)

A cell is one fine-tune of one target, stopped at every stage; its learning rate is the best of a few on
pictures of its own that were set apart.
"""

import dataclasses

import torch

from ...pipeline.objectives import FlowObjective
from .. import plot
from ..lab import methods, replace
from ..photos import chosen, finetuned
from ..records import family, held_out, values
from ..worlds import photos
from .panels import frame
from .photos import Config as Study
from .photos import PhotoConfig, prepared
from .photos_plane import divided
from .runs import in_cells

METHODS = ("none", "CFG", "DoG")


@dataclasses.dataclass(frozen=True)
class Config(PhotoConfig):
    """stages: fine-tuning steps at which a cell is judged. rates: of learning, tried for the first of them on
    all pictures but a `share`. times: at which the loss of each held-out picture is taken."""

    stages: tuple = (10, 20)
    rates: tuple = (1e-3, 1e-2)
    share: float = 0.25
    times: int = 2
    weights: tuple = (1.5,)

    @classmethod
    def full(cls):
        """For two GPUs: 22 minutes."""
        return cls(
            replace(Study.full().setting, samples=500),
            targets=("food", "vehicles"),
            stages=(500, 1000, 2000, 4000, 8000),
            rates=(3e-5, 1e-4, 3e-4, 1e-3),
            share=0.1,
            times=8,
            weights=(1.25, 1.6, 2.2, 3.5),
        )

    @classmethod
    def replica(cls):
        """Fresh seeds of food, four times as long again. For two GPUs: 25 minutes."""
        longer = (1000, 8000, 16_000, 32_000)
        return replace(cls.full(), setting=dict(first=4), targets=("food",), stages=longer)


def _cell(config, device, target, seed):
    """Rows of target, stage, method and w, with each metric, the learning rate, and the loss on true pictures
    that no fine-tune has seen."""
    setting = replace(config.setting, domain=target, finetune=dict(steps=config.stages[-1]))
    judge, pre = prepared(setting, config.base, seed, device)
    setting = replace(setting, finetune=dict(lr=best_rate(config, setting, seed, pre)))
    kept, truth, found = finetuned(setting, seed, pre, config.stages), photos.target(target).truth, []
    pre = pre.compile()
    for stage in config.stages:
        told = dict(loss=loss_on(kept[stage], truth, config.times), lr=setting.finetune.lr)
        tuned = kept[stage].compile()
        for name, w, method in methods(tuned, pre, config.weights, METHODS):
            score = judge.judged(method, seed) | told
            found.append(dict(target=target, stage=stage, method=name, w=w, score=score))
    return found


def best_rate(config, setting, seed, pre):
    """The learning rate after whose first stage the loss on the pictures set apart is lowest."""
    rest, apart = divided(chosen(setting, seed), config.share, seed)
    others, (first, *_) = photos.target(setting.domain).train[apart], config.stages

    def loss(lr):
        short = replace(setting, finetune=dict(lr=lr, steps=first))
        return loss_on(finetuned(short, seed, pre, rows=rest)[first], others, config.times)

    return min(config.rates, key=loss)


@torch.no_grad()
def loss_on(net, data, times, batch=256):
    """The mean loss of a flow on pictures, none mirrored, each at so many times drawn as training draws them
    and with noise of its own, the same for every network."""
    objective, generator, total = FlowObjective(), torch.Generator().manual_seed(40_000), 0.0
    for rows in torch.arange(len(data)).repeat(times).split(batch):
        x0, label = data.draw(rows, torch.zeros(len(rows), dtype=torch.bool))
        time, eps = objective.times(len(rows), generator), torch.randn(x0.shape, generator=generator)
        batch_ = (a.to(net.device) for a in (x0, label, time, eps))
        total += len(rows) * objective(net, *batch_).item()
    return total / (times * len(data))


compute, run = in_cells(_cell, lambda config: [(t,) for t in config.targets])


def finished(record, target):
    """The stage with the lowest mean loss on held-out pictures."""
    loss = lambda stage: values(record, "loss", target=target, stage=stage, method="none").mean()
    return min(record["config"]["stages"], key=loss)


def figure(record):
    """Over the steps of fine-tuning, of each target, the loss on held-out pictures, and below it the Fréchet
    distance of each method at its own weight."""
    config = record["config"]
    targets, stages = config["targets"], config["stages"]
    foot = (
        f"{len(record['seeds'])} fine-tunes of each target, 95% t intervals; dotted: where the loss is lowest"
    )
    with frame([*targets, *[""] * len(targets)], (5 * len(targets), 7), foot, rows=2) as (fig, axes):
        for above, below, target in zip(axes, axes[len(targets) :], targets):
            loss = [values(record, "loss", target=target, stage=s, method="none") for s in stages]
            plot.sweep(above, stages, loss, "none", color="black", linestyle="-")
            above.set_ylabel("loss on held-out pictures")
            for method in METHODS:
                own = [held_out(family(record, method, target=target, stage=s)) for s in stages]
                plot.sweep(below, stages, own, method)
            below.set(xlabel="steps of fine-tuning", ylabel=plot.NAMES["frechet"])
            for ax in (above, below):
                ax.axvline(finished(record, target), color="black", linestyle=":", linewidth=1)
                ax.set_xscale("log")
                ax.set_xticks(stages, [f"{stage:,}" for stage in stages], minor=False)
                ax.set_xticks([], minor=True)
        of_below = axes[-1].get_legend_handles_labels()
        axes[0].legend(*of_below, title="below", loc="lower left", fontsize=11)
    return fig

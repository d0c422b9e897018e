"""Small images: does it matter how the model was fine-tuned? With and without label
dropout, in full and by LoRA. (C16)"""

import dataclasses
import time

import matplotlib.pyplot as plt

from ... import shipped as weights
from ...interop import add_lora, lora_guide
from .. import cache, plot
from ..lab import Presets, methods, replace
from ..pictures import BROAD, QUICK, PictureJudge, PictureSetting, finetuned, replica
from ..records import merge, record
from .panels import foot, over_weights, unguided

VARIANTS = {  # label dropout, and whether by LoRA
    "full": (0.1, False),
    "full, no label dropout": (0.0, False),
    "LoRA": (0.1, True),
    "LoRA, no label dropout": (0.0, True),
}


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """`variants`: some of VARIANTS. `rank`: of LoRA. `rate`: LoRA's learning rate
    relative to the full fine-tune's."""

    setting: PictureSetting = QUICK
    variants: tuple = ("full", "LoRA")
    weights: tuple = (1.5,)
    rank: int = 16
    rate: float = 5.0

    @classmethod
    def full(cls):
        setting = replace(BROAD, finetune=dict(steps=3000))
        return cls(setting, tuple(VARIANTS), weights=(1.1, 1.25, 1.5, 2.0, 3.0))

    @classmethod
    def replica(cls):
        return replica(cls.full(), variants=("full", "LoRA"))


def run(config, device="cpu", progress=False):
    """Rows of variant, method, w and each metric by seed; `memory`: bytes of the weights that
    sampling holds, by variant."""
    found, seconds = compute(config, device, progress=progress)
    results = dict(rows=merge(found.values()), memory=_memory(config))
    return record("images_tuning", config, results, time.time() - seconds, device)


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    keys = [(v, s) for v in config.variants for s in config.setting.each_seed()]
    return cache.cells(_cell, config, device, keys, part, progress)


def _cell(config, device, variant, seed):
    dropout, low_rank = VARIANTS[variant]
    rate = config.setting.finetune.lr * (config.rate if low_rank else 1)
    setting = replace(config.setting, finetune=dict(dropout=dropout, lr=rate))
    judge, pre, found = PictureJudge(setting, device), weights.load("glyphs", device), []
    start = add_lora(pre, judge.world.num_classes, config.rank, seed).compile() if low_rank else None
    ft = finetuned(setting, seed, device, start=start)
    for name, w, method in methods(ft, lora_guide(ft) if low_rank else pre, config.weights):
        score = judge.score(judge.sample(method, seed))
        found.append(dict(variant=variant, method=name, w=w, score=score))
    return found


def _memory(config):
    """Bytes of all distinct weights behind main and guide: two networks, or one with its adapter."""
    pre, classes = weights.load("glyphs"), config.setting.classes
    low = add_lora(pre, classes, config.rank)
    size = lambda *nets: sum({p.data_ptr(): p.nbytes for net in nets for p in net.net.parameters()}.values())
    return {
        "one network": size(pre),
        "full": size(pre, pre.with_classes(classes)),
        "LoRA": size(low, lora_guide(low)),
    }


def figure(record):
    """Fréchet distance and style error over w, one column for each variant."""
    variants, finetune = record["config"]["variants"], record["config"]["setting"]["finetune"]
    with plot.style():
        size = (1 + 5 * len(variants), 8)
        fig, axes = plt.subplots(2, len(variants), figsize=size, sharex=True, sharey="row")
        for column, variant in zip(axes.T, variants, strict=True):
            for ax, metric in zip(column, ("frechet", "style_error"), strict=True):
                over_weights(ax, record, metric, variant=variant)
                unguided(ax, record, metric, variant=variant)
                ax.set(xlabel="", ylabel=plot.NAMES[metric] if variant == "full" else "")
            column[0].set_title(variant[0].upper() + variant[1:])
            column[1].set_xlabel("guidance weight w")
        axes[0, 0].legend()
        foot(fig, record, f"; {finetune['steps']} steps of fine-tuning")
    return fig

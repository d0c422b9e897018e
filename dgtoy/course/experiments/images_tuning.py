"""Small images: does it matter how the model was fine-tuned? With and without label
dropout, in full and by LoRA. (C16)"""

import dataclasses

from ... import shipped as weights
from ...interop import add_lora, lora_guide
from .. import plot
from ..lab import methods, replace
from ..pictures import BROAD, PictureConfig, finetuned, prepared, replica
from ..records import caption
from .panels import frame, over_weights, unguided
from .runs import in_cells, merged

VARIANTS = {  # label dropout, and whether by LoRA
    "full": (0.1, False),
    "full, no label dropout": (0.0, False),
    "LoRA": (0.1, True),
    "LoRA, no label dropout": (0.0, True),
}


@dataclasses.dataclass(frozen=True)
class Config(PictureConfig):
    """`variants`: some of VARIANTS. `rank`: of LoRA. `rate`: LoRA's learning rate
    relative to the full fine-tune's."""

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


def _cell(config, device, variant, seed):
    """Rows of variant, method, w and each metric."""
    dropout, low_rank = VARIANTS[variant]
    rate = config.setting.finetune.lr * (config.rate if low_rank else 1)
    setting = replace(config.setting, finetune=dict(dropout=dropout, lr=rate))
    judge, pre = prepared(setting, device)
    start = add_lora(pre, judge.world.num_classes, config.rank, seed).compile() if low_rank else None
    ft = finetuned(setting, seed, device, start=start)
    return [
        dict(variant=variant, method=name, w=w, score=judge.judged(method, seed))
        for name, w, method in methods(ft, lora_guide(ft) if low_rank else pre, config.weights)
    ]


def _results(config, device, found):
    """The rows of all cells; `memory`: bytes of the weights that sampling holds, by variant."""
    return merged(config, device, found) | dict(memory=_memory(config))


compute, run = in_cells(_cell, lambda config: [(variant,) for variant in config.variants], _results)


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
    titles = [v[0].upper() + v[1:] for v in variants] + [""] * len(variants)
    size, foot = (1 + 5 * len(variants), 8), caption(record, f"; {finetune['steps']} steps of fine-tuning")
    with frame(titles, size, foot, rows=2, sharex=True, sharey="row") as (fig, axes):
        for column, variant in zip(axes.reshape(2, -1).T, variants, strict=True):
            for ax, metric in zip(column, ("frechet", "style_error"), strict=True):
                over_weights(ax, record, metric, variant=variant)
                unguided(ax, record, metric, variant=variant)
                ax.set(xlabel="", ylabel=plot.NAMES[metric] if variant == "full" else "")
            column[1].set_xlabel("guidance weight w")
        axes[0].legend()
    return fig

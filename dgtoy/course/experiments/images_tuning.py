"""Small images: does it matter how the model was fine-tuned? With and without label dropout, in full and by LoRA. (C16)"""

import dataclasses
import time

import matplotlib.pyplot as plt
import numpy as np

from ... import shipped as weights
from ...guidance import cfg, domain_guidance
from ...interop import add_lora, lora_guide
from .. import plot
from ..records import merge, record, row, rows
from .pictures import QUICK, Judge, Setting, cells, finetuned

VARIANTS = {
    "full": (0.1, 0),
    "full, no label dropout": (0.0, 0),
    "LoRA": (0.1, 1),
    "LoRA, no label dropout": (0.0, 1),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """`variants`: some of VARIANTS. `rank`: of LoRA. `rate`: LoRA's learning rate relative to the full fine-tune's."""

    setting: Setting = QUICK
    variants: tuple = ("full", "LoRA")
    weights: tuple = (1.5,)
    rank: int = 16
    rate: float = 5.0

    @classmethod
    def quick(cls):
        return cls()

    @classmethod
    def full(cls):
        return cls(
            Setting(classes=62, size=20).but(finetune=dict(steps=3000)),
            tuple(VARIANTS),
            weights=(1.1, 1.25, 1.5, 2.0, 3.0),
        )


def run(config, device="cpu", progress=False):
    """Rows of variant, method, w and each metric by seed; `memory`: bytes of the weights that sampling holds, by variant."""
    found, seconds = compute(config, device, progress=progress)
    return record(
        "images_tuning",
        config,
        dict(rows=merge(found.values()), memory=_memory(config)),
        time.time() - seconds,
        device,
    )


def compute(config, device="cpu", part=(0, 1), progress=False):
    """The results of every cell, or of a part of them, and the seconds they took."""
    return cells(
        "images_tuning",
        _cell,
        [(config, device, v, s) for v in config.variants for s in config.setting.each_seed()],
        part,
        progress,
    )


def _cell(key):
    config, device, variant, seed = key
    dropout, low_rank = VARIANTS[variant]
    rate = config.setting.finetune.lr * (config.rate if low_rank else 1)
    setting = config.setting.but(finetune=dict(dropout=dropout, lr=rate))
    judge, pre = Judge(setting, device), weights.load("glyphs", device)
    start = add_lora(pre, judge.world.num_classes, config.rank, seed).compile() if low_rank else None
    ft = finetuned(setting, seed, device, start=start)
    base = lora_guide(ft) if low_rank else pre
    y, guide = judge.label, base.denoiser(base.null)
    found = [
        dict(variant=variant, method="none", w=1.0, score=judge.score(judge.sample(ft.denoiser(y), seed)))
    ]
    for w in config.weights:
        for method, D in (
            ("CFG", cfg(ft, y, ft.null, w)),
            ("DoG", domain_guidance(ft.denoiser(y), guide, w)),
        ):
            found.append(dict(variant=variant, method=method, w=w, score=judge.score(judge.sample(D, seed))))
    return found


def _memory(config):
    """Bytes of all distinct weights behind main and guide: two networks, or one with its adapter."""
    pre = weights.load("glyphs")
    tuned = pre.with_classes(config.setting.classes)
    low = add_lora(pre, config.setting.classes, config.rank)
    size = lambda *nets: sum({p.data_ptr(): p.nbytes for net in nets for p in net.net.parameters()}.values())
    return {"one network": size(pre), "full": size(pre, tuned), "LoRA": size(low, lora_guide(low))}


def figure(record):
    """Fréchet distance and style error over w, one panel a variant."""
    with plot.style():
        variants = record["config"]["variants"]
        fig, axes = plt.subplots(
            2, len(variants), figsize=(1 + 5 * len(variants), 8), sharex=True, sharey="row"
        )
        for column, variant in zip(axes.T, variants, strict=True):
            none = row(record, variant=variant, method="none")
            for ax, metric in zip(column, ("frechet", "style_error"), strict=True):
                for method in ("CFG", "DoG"):
                    found = [none] + rows(record, variant=variant, method=method)
                    plot.sweep(ax, [r["w"] for r in found], [r[metric] for r in found], method)
                ax.axhline(np.mean(none[metric]), label="none", **{**plot.METHODS["none"], "marker": ""})
                ax.set_ylabel(plot.NAMES[metric] if variant == "full" else "")
            column[0].set_title(variant[0].upper() + variant[1:])
        axes[0, 0].legend()
        fig.supxlabel(f"guidance weight w      ({_where(record)})", fontsize=12)
    return fig


def _where(record):
    s = record["config"]["setting"]
    return f"{s['classes']} classes, {s['size']} images a class, {s['finetune']['steps']} steps; {len(record['seeds'])} seeds, 95% bootstrap intervals"

"""Which guide? The ancestor, a stranger, a weaker self, and guides that should not work. (C9, C10)

Asked twice: of a finished fine-tune, where guidance can only sharpen, and of one that has hardly
begun, which it can complete.
"""

import dataclasses
import math

import torch

from ...guidance import blurred, guided
from ...nets import Ensemble
from .. import plot
from ..lab import (
    ON_AN_INTERVAL,
    ON_OTHER_SOURCES,
    PointSetting,
    Presets,
    on_own_sources,
    prepared,
    pretrained,
    replace,
    weaker_self,
)
from ..records import caption, family, held_out
from ..tradeoff import area, area_by_thickness
from .panels import frame
from .runs import recorded

GUIDES = {  # name in the record: what it is
    "ancestor": "DoG: the pre-trained model",
    "own null": "CFG: the fine-tune's null branch",
    "other seed": "pre-trained, another seed",
    "early ancestor": "the ancestor, at an eighth",
    "other source": "pre-trained, another source",
    "weaker self": "autoguidance: fine-tuned a tenth",
    "blurred self": "its own density, blurred",
    "ancestor on an interval": "DoG on an interval",
    "own null on an interval": "CFG on an interval",
    "weaker self on an interval": "autoguidance on an interval",
    "blurred self on an interval": "blurred self on an interval",
    "itself": "control: the model itself",
    "untrained": "control: untrained (a broad Gaussian)",
    "random": "control: random weights",
    "wrong label": "control: ancestor, label 3 for null",
    "swapped": "control: main and guide swapped",
}
LOOKS = {
    "ancestor": "DoG",
    "own null": "CFG",
    "weaker self": "autoguidance",
    "blurred self": "blurred self",
    "ancestor on an interval": "DoG on an interval",
}


@dataclasses.dataclass(frozen=True)
class Config(Presets):
    """`stages`: (name, fine-tuning steps, learning rate). Each seed has a source of its own, and another
    seed's source is the other source. `interval`, `b`: as in `transfer`."""

    setting: PointSetting = on_own_sources()
    stages: tuple = (("finished", 5000, 1e-3), ("hardly begun", 100, 1e-4))
    weights: tuple = (1.25,)
    interval: tuple = (0.0, 0.5)
    b: float = 0.4

    @classmethod
    def full(cls):
        """For one core of a CPU: ten minutes."""
        return cls(on_own_sources(seeds=16), weights=(1.1, 1.25, 1.5, 2.0, 3.0))

    @classmethod
    def replica(cls):
        return cls(ON_OTHER_SOURCES, weights=cls.full().weights)


@recorded
def run(config, device, progress):
    """Rows of stage, guide, w and each metric by seed."""
    for stage, steps, lr in config.stages:
        setting = replace(config.setting, finetune=dict(steps=steps, lr=lr))
        pre, ft, judge = prepared(setting, device, progress)
        pairs = _pairs(config, setting, pre, ft, device, progress)
        yield dict(stage=stage, guide="none", w=1.0, **judge.judged(ft.denoiser))
        for w in config.weights:
            for name in GUIDES:
                main, guide = pairs[name.removesuffix(ON_AN_INTERVAL)]
                where = config.interval if name.endswith(ON_AN_INTERVAL) else (0.0, math.inf)
                score = judge.judged(lambda c: guided(main(c), guide(c), w, where))
                yield dict(stage=stage, guide=name, w=w, **score)


def _pairs(config, setting, pre, ft, device, progress):
    """Main model and guide, each label -> denoiser, for every name of GUIDES that guides always."""
    weaker = weaker_self(setting, device, progress)
    steps = setting.pretrain.steps // 8
    early = pretrained(replace(setting, pretrain=dict(steps=steps)), device, progress)
    again = [20_000 + s for s in setting.each_seed()]
    fresh = Ensemble.of(setting.each_seed(), num_classes=pre.null, width=setting.width).to(device)
    ancestor = label_free(pre)
    guides = {
        "ancestor": ancestor,
        "own null": label_free(ft),
        "other seed": label_free(pretrained(setting, device, progress, again)),
        "early ancestor": label_free(early),
        "other source": label_free(_next_seed(pre)),
        "weaker self": weaker.denoiser,
        "blurred self": lambda c: blurred(ft.denoiser(c), config.b),
        "itself": ft.denoiser,
        "untrained": label_free(fresh),
        "random": label_free(_noisy(fresh, device)),
        "wrong label": lambda c: pre.denoiser(3),
    }
    return {name: (ft.denoiser, guide) for name, guide in guides.items()} | {
        "swapped": (ancestor, ft.denoiser)
    }


def label_free(net):
    """A network without a label, whatever label is asked for."""
    return lambda c: net.denoiser(net.null)


def _next_seed(nets):
    """The same networks, each in the place of the next, whose source is another."""
    other = nets.clone()
    other.params = {k: p.detach().roll(1, 0) for k, p in other.params.items()}
    return other


def _noisy(fresh, device):
    """Untrained networks whose output layer, zero at the start, is drawn like the others."""
    noisy, generator = fresh.clone(), torch.Generator().manual_seed(0)
    output = list(noisy.params)[-2]
    drawn = torch.randn(noisy.params[output].shape, generator=generator).to(device)
    noisy.params[output] = drawn / fresh.config["width"] ** 0.5
    return noisy


def compare(ax, guides, by_guide):
    """A row for no guide and for each of `guides` {name: words}; by_guide(name): its values by seed."""
    names = ["none", *guides]
    looks = [LOOKS.get(name, "none") for name in names]
    plot.bars(ax, [by_guide(name) for name in names], ["not guided", *guides.values()], looks)


def figure(record):
    """What each guide leaves over its whole trade-off, for a finished fine-tune at either cost, and
    at its own weight for one that has hardly begun."""
    left = {
        "Finished: outliers left\nat equal energy distance": lambda g: area(of_guide(record, g)),
        "Finished: outliers left\nat equal thickness": lambda g: area_by_thickness(of_guide(record, g)),
        "Hardly begun: energy distance\nat its own weight": lambda g: held_out(
            of_guide(record, g, record["config"]["stages"][-1][0]), "energy"
        ),
    }
    foot = caption(record, "; lower is better")
    with frame(left, (16, 7), foot, sharey=True) as (fig, axes):
        for ax, by_guide in zip(axes, left.values(), strict=True):
            compare(ax, GUIDES, by_guide)
            ax.set(xlim=(0, None), xlabel="share of samples outside")
            ax.locator_params(axis="x", nbins=5)
        axes[-1].set_xlabel(plot.NAMES["energy"])
    return fig


def of_guide(record, guide, stage="finished"):
    """A guide's rows over w, that of no guidance first."""
    return family(record, guide, "guide", stage=stage)

"""Every method that a reviewer would name, made from the same models: on points, on pictures."""

import dataclasses

from torch import Tensor

from ..guidance import autoguidance, blurred, cfg, domain_guidance, plane
from ..relatives import apg, cfg_plus_plus, cfg_zero_star, frequency_decoupled
from ..samplers import pairs


@dataclasses.dataclass(frozen=True)
class Models:
    """Networks with labels: `weaker`, an early fine-tune; `between`, whose weights are half-way between the
    pre-trained model's and the fine-tune's. `sigmas`: the schedule of the sampler. `interval`: of methods on
    one. `b`: the width of the blurred self. `axes`: those of one sample, None for all but the first."""

    finetuned: object
    pretrained: object
    weaker: object
    between: object
    sigmas: Tensor
    interval: tuple = (0.0, 0.5)
    b: float = 0.4
    axes: tuple | None = None

    def main(self, y):
        return self.finetuned.denoiser(y)

    @property
    def null(self):
        return self.finetuned.denoiser(self.finetuned.null)

    @property
    def source(self):
        return self.pretrained.denoiser(self.pretrained.null)

    def renoised(self, w):
        """CFG++'s weight, as strong as w is on the average of the steps."""
        share = sum(now / (now - then) for now, then in pairs(self.sigmas)) / (len(self.sigmas) - 1)
        return cfg_plus_plus(w / share, self.sigmas)


MOMENTUM = -0.5  # of APG, as in its paper; its radius is left off, since it has no scale of its own

METHODS = {  # name: (models, label, w) -> denoiser
    "CFG": lambda m, y, w: cfg(m.finetuned, y, m.finetuned.null, w),
    "DoG": lambda m, y, w: domain_guidance(m.main(y), m.source, w),
    "autoguidance": lambda m, y, w: autoguidance(m.main(y), m.weaker.denoiser(y), w),
    "blurred self": lambda m, y, w: autoguidance(m.main(y), blurred(m.main(y), m.b), w),
    "CFG on an interval": lambda m, y, w: cfg(m.finetuned, y, m.finetuned.null, w, m.interval),
    "DoG on an interval": lambda m, y, w: domain_guidance(m.main(y), m.source, w, m.interval),
    "plane": lambda m, y, w: plane(m.source, m.null, m.main(y), (1 + w) / 2, w),
    "half-way guide": lambda m, y, w: autoguidance(m.main(y), m.between.denoiser(m.between.null), w),
    "CFG, APG": lambda m, y, w: apg(m.main(y), m.null, w, momentum=MOMENTUM, axes=m.axes),
    "DoG, APG": lambda m, y, w: apg(m.main(y), m.source, w, momentum=MOMENTUM, axes=m.axes),
    "CFG-Zero*": lambda m, y, w: cfg_zero_star(m.main(y), m.null, w, m.sigmas[1].item(), axes=m.axes),
    "DoG, Zero*": lambda m, y, w: cfg_zero_star(m.main(y), m.source, w, m.sigmas[1].item(), axes=m.axes),
    "CFG++": lambda m, y, w: cfg(m.finetuned, y, m.finetuned.null, m.renoised(w)),
    "DoG++": lambda m, y, w: domain_guidance(m.main(y), m.source, m.renoised(w)),
    "CFG by frequency": lambda m, y, w: frequency_decoupled(m.main(y), m.null, (1 + w) / 2, w),
    "DoG by frequency": lambda m, y, w: frequency_decoupled(m.main(y), m.source, (1 + w) / 2, w),
}
OF_PICTURES = ("CFG by frequency", "DoG by frequency")  # points have no frequencies
RELATIVES = ("half-way guide", "CFG, APG", "DoG, APG", "CFG-Zero*", "DoG, Zero*", "CFG++", "DoG++")


def method(name, models, w):
    """A method by name at a weight: label -> denoiser."""
    return lambda y: METHODS[name](models, y, w)

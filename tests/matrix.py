"""Which pipelines are guided in which ways: each pair is a test, and book/pipelines.md names them.

python tests/matrix.py        writes the names into the page
"""

import pathlib

import numpy as np
import torch
from peft import LoraConfig
from tiny import (
    KINDS,
    Blurred,
    Counted,
    OnPlane,
    Spelled,
    W,
    adapted,
    dit,
    dit_pipeline,
    drawn,
    order,
    random,
)

from dgtoy.interop import guide_pipeline, lora_guide, t_to_sigma

PAGE = pathlib.Path(__file__).resolve().parents[1] / "book" / "pipelines.md"
KINDS = {"DiT": (lambda: dit(1000, torch.initial_seed())[1], dit_pipeline, "guidance_scale")} | KINDS


class Case:
    """One kind of pipeline, its fine-tuned network and its guide."""

    def __init__(self, kind):
        self.kind, self.order = kind, order(kind)
        self.make, self.build, self.scale = KINDS[kind]
        self.main, self.guide = random(1, self.make), random(2, self.make)

    def pipe(self, net=None):
        return self.build(self.main if net is None else net)[0]

    def draw(self, pipe, dtype=torch.float32):
        pipe = pipe if dtype == torch.float32 else pipe.to(dtype)
        return drawn(self.kind, pipe, self.build(self.main)[1], W, dtype=dtype, scale=self.scale)

    def guided(self, **options):
        return guide_pipeline(self.pipe(), self.pipe(self.guide), **dict(domain=None) | options)

    def equal(self, pipe, reference, atol=1e-4, dtype=torch.float32):
        """The pipeline draws what a network that spells the formula out makes the plain one draw, and not
        what the plain one draws by itself."""
        found, expected, plain = (self.draw(p, dtype) for p in (pipe, self.pipe(reference), self.pipe()))
        assert np.abs(found - expected).max() < atol < np.abs(found - plain).max()


def two_networks(case):
    case.equal(case.guided(), Spelled(case.main, case.guide, case.order))


def plane(case):
    """The default wherever there is a prompt."""
    options = dict(domain=1.25) if case.kind == "DiT" else {}
    pipe = guide_pipeline(case.pipe(), case.pipe(case.guide), **options)
    case.equal(pipe, OnPlane(case.main, case.guide, case.order, 1.25, W))


def lora(case):
    base = random(1, case.make)
    case.main = adapted(case.main, LoraConfig(r=2, target_modules=["to_q", "to_v"]), "style")
    case.equal(lora_guide(case.pipe(), domain=1.25), OnPlane(case.main, base, case.order, 1.25, W))


def interval(case):
    """On the first of three levels; afterwards it is CFG, and with one weight the fine-tune alone."""
    case.guide = Counted(case.guide)
    pipe = case.guided()
    pipe.scheduler.set_timesteps(3)
    above = t_to_sigma(pipe.scheduler.timesteps, pipe)[:2].log().mean().exp().item()
    point = OnPlane(case.main, case.guide.net, case.order, 1.25, W, steps=1)
    for domain, formula in ((1.25, point), (None, Spelled(case.main, case.guide.net, case.order, steps=1))):
        case.equal(case.guided(domain=domain, interval=(above, float("inf"))), formula)
    assert case.guide.calls == 2


def blur(case):
    pipe = guide_pipeline(case.pipe(), blur=0.5, domain=None)
    case.equal(pipe, Blurred(case.main, pipe.scheduler, 0.5, case.kind))


def offload(case):
    pipe = case.guided()
    pipe.enable_model_cpu_offload(device="cpu")
    case.equal(pipe, Spelled(case.main, case.guide, case.order))


def compile(case):
    pipe = case.guided()
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    setattr(pipe, name, torch.compile(getattr(pipe, name), backend="eager"))
    case.equal(pipe, Spelled(case.main, case.guide, case.order))


def fp16(case, dtype=torch.float16):
    case.equal(case.guided(), Spelled(case.main, case.guide, case.order), 1e-2, dtype)


def bf16(case):
    fp16(case, torch.bfloat16)


FEATURES = {
    "two networks": two_networks,
    "LoRA": lora,
    "plane": plane,
    "interval": interval,
    "blur": blur,
    "offload": offload,
    "compile": compile,
    "fp16": fp16,
    "bf16": bf16,
}


def named():
    """The pipelines, as the page names them."""
    return f"{len(KINDS)} pipelines, each in {len(FEATURES)} ways: {' · '.join(KINDS)}."


if __name__ == "__main__":
    from dgtoy.course.claims.report import put

    PAGE.write_text(put(PAGE.read_text(encoding="utf-8"), "pipelines", named()), encoding="utf-8")
    print(f"wrote {PAGE.name}")

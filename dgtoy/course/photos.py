"""The laboratory's world of photographs: transfer problems, their fine-tunes, one judge for all methods."""

import dataclasses

import torch

from .. import shipped
from ..interop import add_lora
from ..pipeline.finetune import Config, averaged
from .lab import Setting
from .worlds import photos


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhotoSetting(Setting):
    """A transfer problem on photographs, see `worlds.photos`: a seed is another choice of the target's
    pictures, another label table, other batches and noise.

    target: of `worlds.photos.TARGETS`. base: the pre-trained network, of `shipped.NAMES`. size: pictures a
    class to train on.
    """

    seeds: int = 4
    target: str = "food"
    base: str = "photos64"
    size: int = 100
    finetune: Config = Config(steps=1500, batch=128, lr=3e-4, betas=(0.9, 0.95), ema=0.999, clip=1.0)
    samples: int = 1000
    steps: int = 24
    sigma_min: float = 0.004
    sigma_max: float = 80.0


def training_set(setting, seed):
    """The pictures of a seed: `size` of each class, drawn from those that the target sets apart to train on.

    A class that has fewer gives all. -> Photos
    """
    pool, g = photos.target(setting.target).train, torch.Generator().manual_seed(9_000 + seed)
    order = torch.randperm(len(pool), generator=g)
    rows = [order[pool.label[order] == k][: setting.size] for k in range(len(pool.classes))]
    return pool[torch.cat(rows)]


def finetuned(setting, seed, base, at=()):
    """A pre-trained network fine-tuned on the pictures of a seed; with finetune.rank by a LoRA.
    -> {step: its averaged weights as a Flow} for the steps in `at` and the last"""
    data, recipe = training_set(setting, seed), dataclasses.replace(setting.finetune, seed=10_000 + seed)
    classes = len(data.classes)
    if recipe.rank:
        net = add_lora(base, classes, recipe.rank, seed)
    else:
        net = base.with_classes(classes, seed)
    return averaged(compiled(net), data.to(net.device), recipe, {*at, recipe.steps})


def pretrained(setting, device):
    """The network that fine-tunes start from, and that guides them.  -> Flow"""
    return shipped.load(setting.base, device)


def compiled(net):
    """A network with its blocks compiled on a CUDA device, as training wants it; elsewhere as it is."""
    if net.device.type == "cuda":
        for block in net.net.blocks:
            block.compile()
    return net

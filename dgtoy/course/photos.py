"""Fine-tunes on photographs for the studies; `photo_judge` says which problem they solve, and how well."""

import dataclasses

import torch

from .. import shipped
from ..interop import add_lora
from ..pipeline.finetune import averaged
from .worlds import photos

SECOND, LARGE = "build/second", "build/large"  # folders of further pre-trained models: `weights --study NAME`


def pretrained(base, device="cpu"):
    """What is fine-tuned: a network that ships, by name, or the "photos64" of another folder.  -> Flow"""
    if base in shipped.NAMES:
        return shipped.load(base, device)
    return shipped.load("photos64", device, base)


def chosen(setting, seed):
    """Which pictures of a target's training half a seed learns from: `size` of each class, at random.
    -> rows (n,), in order"""
    label = photos.target(setting.domain).train.label
    if setting.size is None:
        return torch.arange(len(label))
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(9_000 + seed))
    return order[photos.first(label[order], setting.size)].sort().values


def finetuned(setting, seed, base, at=(), rows=None, objective=None):
    """A pre-trained network fine-tuned on the pictures of a seed, with finetune.rank by a LoRA; a seed is
    another choice of pictures, another label table, other batches and noise.

    rows: of the training half, by default those `chosen`. objective: by default that of the network's kind.

    -> {step: its averaged weights as a Flow} for the steps in `at` and the last
    """
    data = photos.target(setting.domain).train[chosen(setting, seed) if rows is None else rows]
    recipe = dataclasses.replace(setting.finetune, seed=10_000 + seed)
    if recipe.rank:
        net = add_lora(base, len(data.classes), recipe.rank, seed)
    else:
        net = base.with_classes(len(data.classes), seed)
    return averaged(net.compile_blocks(), data.to(net.device), recipe, {*at, recipe.steps}, objective)

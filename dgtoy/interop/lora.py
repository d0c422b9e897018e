"""LoRA fine-tunes: training one, and guiding it by the same network with the adapter off."""

import copy
import warnings

import torch
from torch import nn

from ..checks import check_seed, check_whole, shown
from ..dit import LabelEmbedder, Preconditioned
from ..dit.fast import fused
from ..environment import needs
from ..graphs import Captured
from .adapters import WithoutAdapter, adapter_off
from .checks import network_name
from .encoders import check_encoders

TARGET_MODULES = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12]|adaLN_modulation\.1)"


class LabelTables(nn.Module):
    """The label tables of a pre-trained network and of its fine-tune; the first is read while `off`."""

    def __init__(self, pretrained, finetuned):
        super().__init__()
        self.pretrained, self.finetuned, self.off = pretrained, finetuned, False

    def forward(self, y):
        return (self.pretrained if self.off else self.finetuned)(y)


class PretrainedDiT(nn.Module):
    """A LoRA fine-tune's DiT as the one it was tuned from: the same weights, its labels and null."""

    def __init__(self, tuned):
        super().__init__()
        self.tuned = tuned
        self.null = len(tuned.y_embedder.pretrained.embedding_table.weight) - 1
        self.shape, self.config = tuned.shape, {**tuned.config, "num_classes": self.null}

    pos_embed = property(lambda self: self.tuned.pos_embed)
    blocks = property(lambda self: self.tuned.blocks)

    def forward(self, x, t, y):
        tables = self.tuned.y_embedder
        tables.off = True
        try:
            with adapter_off(self.tuned):
                return self.tuned(x, t, y)
        finally:
            tables.off = False


@fused.register
def _fused_guide(net: PretrainedDiT, fp8=False):
    return PretrainedDiT(fused(net.tuned, fp8))


def add_lora(net, num_classes, rank=16, seed=0):
    """A copy of an `EDM`, `VP` or `Flow` that trains W + B A in every block, and a new label table.

    All else is frozen. rank: of B A (Hu et al. 2022). seed: of adapter and table. `lora_guide` of the copy is
    the pre-trained model. Raises ImportError naming the extra without peft, ValueError for a rank below 1 or
    above the network's width, or a network that has an adapter.
    """
    if not isinstance(net, Preconditioned):
        raise TypeError(f"net is {shown(net)}; expected an EDM, a VP or a Flow")
    num_classes, rank = check_whole("num_classes", num_classes, 0), check_whole("rank", rank, 1)
    seed, width = check_seed("seed", seed), net.config["hidden_size"]
    if rank > width:
        raise ValueError(f"rank is {rank}; expected at most {width}, the network's width")
    needs("dit", "peft")
    with warnings.catch_warnings():  # tqdm.auto warns in a notebook that has no widgets
        warnings.simplefilter("ignore")
        from peft import LoraConfig, inject_adapter_in_model

    if isinstance(net.net.y_embedder, LabelTables):
        raise ValueError("net carries an adapter already; expected a network without one")
    dit = copy.deepcopy(net.net).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # the CPU's alone
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=TARGET_MODULES), dit)
        table = LabelEmbedder(num_classes, dit.config["hidden_size"])
    nn.init.normal_(table.embedding_table.weight, std=0.02, generator=torch.Generator().manual_seed(seed))
    dit.y_embedder = LabelTables(dit.y_embedder, table)
    dit.null, dit.config = num_classes, {**dit.config, "num_classes": num_classes}
    new = net.with_net(dit.to(net.device))
    new.seeds = [seed]
    return new


def lora_guide(net, adapter=None, null=None, domain="default", **options):
    """The guide of a LoRA fine-tune: the same network with the adapter off, no second copy.

    net: what `add_lora` returned -> one of its kind, with `denoiser` and `null`; or a diffusers pipeline,
    guided in place -> the pipeline. adapter: which one of a pipeline's, by name; by default all. null,
    domain, options (interval, every): as in `guide_pipeline`, for a pipeline alone. Raises ValueError if the
    network carries no such adapter or the guide would not be its base: an adapter that is fused or changed
    the weights below it. Where one is in a text encoder too, the null prompt is read a second time without
    it (Stable Diffusion 1, 2, XL, 3; elsewhere, or where embeddings come for text, `null` must be given).
    """
    if not isinstance(net, Preconditioned):
        from .pipelines import put_guide, unguided

        name = network_name(net)
        tuned = unguided(getattr(net, name))
        check_encoders(net, null, adapter)
        with adapter_off(tuned, adapter):  # refuses an adapter that is not there
            return put_guide(net, WithoutAdapter(tuned, adapter), null, domain, **options)
    if not isinstance(net.net.y_embedder, LabelTables):
        raise ValueError("net carries no adapter; expected what add_lora returned, or its average")
    if (adapter, null, domain) != (None, None, "default") or options:
        raise ValueError(
            f"options of a pipeline's guide came with a {type(net).__name__}; expected none: weight and"
            " interval are those of domain_guidance"
        )
    guide = net.with_net(PretrainedDiT(net.net))
    if net.graphs is not None:  # its blocks are compiled with the network's
        guide.graphs = Captured(guide.__call__)
    return guide

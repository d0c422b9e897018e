"""DiT to diffusers' `DiTTransformer2DModel` and back: the same weights in another layout.

diffusers copies the embedders of time and label into every block and splits qkv in three. For equal weights
its network differs from the official one in two constants, which are set here: `downscale_freq_shift` of the
time embedding is 1 (official: 0) and the eps of `norm3` is 1e-5 (official: 1e-6). They are no part of its
configuration, so a model that was saved and read again needs `as_official` again.
"""

import torch

from ..checks import shown
from ..environment import needs
from .network import DiT

ENDS = {  # ours: diffusers'
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
BLOCK = {  # within a block
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
OFFICIAL = dict(  # what diffusers' class leaves open and DiT does not
    activation_fn="gelu-approximate",
    norm_type="ada_norm_zero",
    attention_bias=True,
    norm_elementwise_affine=False,
)
EMBEDDERS = {  # ours, once: diffusers', in every block
    "t_embedder.mlp.0": "norm1.emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "norm1.emb.timestep_embedder.linear_2",
    "y_embedder.embedding_table": "norm1.emb.class_embedder.embedding_table",
}


def _names(depth):
    """Every weight of ours with its names in diffusers: copies of it, or, of qkv, its three parts."""
    blocks = [(f"blocks.{i}", f"transformer_blocks.{i}") for i in range(depth)]
    for part in ("weight", "bias"):
        for ours, theirs in ENDS.items():
            yield f"{ours}.{part}", [f"{theirs}.{part}"]
        for ours, theirs in EMBEDDERS.items():
            if (ours, part) != ("y_embedder.embedding_table", "bias"):
                yield f"{ours}.{part}", [f"{block}.{theirs}.{part}" for _, block in blocks]
        for our_block, their_block in blocks:
            for ours, theirs in BLOCK.items():
                yield f"{our_block}.{ours}.{part}", [f"{their_block}.{theirs}.{part}"]
            yield f"{our_block}.attn.qkv.{part}", [f"{their_block}.attn1.to_{name}.{part}" for name in "qkv"]


def to_diffusers(net):
    """A `DiTTransformer2DModel` with a DiT's weights, outputs and null label, num_classes.

    Raises ImportError naming the extra without diffusers, ValueError for a net with `velocity`, `flow` or
    `sit`, or with positions of its own.
    """
    needs("dit", "diffusers")
    from diffusers import DiTTransformer2DModel

    if not isinstance(net, DiT):
        raise TypeError(f"net is {shown(net)}; expected a DiT")
    c, state = net.config, net.state_dict()
    for kind, what in dict(velocity="predicts velocity inside", flow="is a flow", sit="is a SiT").items():
        if kind in c:
            raise ValueError(f"net {what}; expected a DiT of the official kind: diffusers' has no such step")
    found = {}
    for ours, theirs in _names(c["depth"]):
        parts = state[ours].chunk(3) if ".qkv." in ours else [state[ours]] * len(theirs)
        found |= {name: part.clone() for name, part in zip(theirs, parts, strict=True)}
    model = DiTTransformer2DModel(
        num_attention_heads=c["num_heads"],
        attention_head_dim=c["hidden_size"] // c["num_heads"],
        in_channels=c["in_channels"],
        out_channels=c["in_channels"] * (1 + c["learn_sigma"]),
        num_layers=c["depth"],
        sample_size=c["input_size"],
        patch_size=c["patch_size"],
        num_embeds_ada_norm=c["num_classes"],
    )
    model.load_state_dict(found)
    if not torch.allclose(model.pos_embed.pos_embed, state["pos_embed"].float().cpu(), atol=0.01):
        raise ValueError("net has a pos_embed of its own; expected DiT's, as diffusers' makes and saves none")
    return as_official(model).eval()


def as_official(model):
    """Set, in place, the two constants in which diffusers' network is not the official one.  -> model"""
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return model


def from_diffusers(model):
    """A DiT with the weights of a `DiTTransformer2DModel`, the inverse of `to_diffusers`.

    Raises TypeError for another kind of model; ValueError for one that computes something else, or whose
    blocks disagree in their embedders.
    """
    needs("dit", "diffusers")
    from diffusers import DiTTransformer2DModel

    if not isinstance(model, DiTTransformer2DModel):
        raise TypeError(f"model is {shown(model)}; expected a DiTTransformer2DModel")
    for name, official in OFFICIAL.items():
        if model.config[name] != official:
            raise ValueError(f"model has {name} {model.config[name]!r}; expected {official!r}, as DiT has")
    channels = model.config.in_channels
    if model.config.out_channels not in (None, channels, 2 * channels):
        raise ValueError(
            f"model has out_channels {model.config.out_channels}; expected {channels} or {2 * channels}"
        )
    c, state = model.config, model.state_dict()
    found = {}
    for ours, theirs in _names(c.num_layers):
        parts = [state[name] for name in theirs]
        if ".qkv." in ours:
            found[ours] = torch.cat(parts)
            continue
        for name, part in zip(theirs, parts, strict=True):
            if not torch.equal(part, parts[0]):
                raise ValueError(
                    f"model holds another weight in {name} than in {theirs[0]}; expected one for all blocks"
                )
        found[ours] = parts[0]
    net = DiT(
        c.sample_size,
        c.patch_size,
        c.in_channels,
        c.num_attention_heads * c.attention_head_dim,
        c.num_layers,
        c.num_attention_heads,
        c.num_embeds_ada_norm,
        learn_sigma=(c.out_channels or c.in_channels) == 2 * c.in_channels,
    )
    net.load_state_dict(found | {"pos_embed": net.pos_embed})
    return net

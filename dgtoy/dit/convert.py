"""DiT to diffusers' `DiTTransformer2DModel` and back. The weights are the same; the layout, and two
constants, are not.

diffusers copies the embedders of time and label into every block and splits qkv in three. For equal weights
its network differs from the official one in two constants, which are set here: `downscale_freq_shift` of the
time embedding is 1 (official: 0) and the eps of `norm3` is 1e-5 (official: 1e-6). They are no part of its
configuration, so a model that was saved and read again needs `as_official` again.
"""

import torch

from ..environment import needs
from .network import DiT

BLOCK = {  # ours: diffusers', within a block
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "adaLN_modulation.1": "norm1.linear",
}
EMBEDDERS = {  # ours, once: diffusers', in every block's norm1.emb
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
    "y_embedder.embedding_table": "class_embedder.embedding_table",
}
ENDS = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}


def to_diffusers(net):
    """A `DiTTransformer2DModel` with a DiT's weights, outputs and null label, num_classes.

    Raises ImportError naming the extra without diffusers, ValueError for a net with `velocity`.
    """
    needs("dit", "diffusers")
    from diffusers import DiTTransformer2DModel

    c, state, found = net.config, net.state_dict(), {}
    if "velocity" in c:
        raise ValueError(
            "net predicts velocity inside; expected a DiT of the official kind: diffusers' has no such step"
        )
    for part in ("weight", "bias"):
        for ours, theirs in ENDS.items():
            found[f"{theirs}.{part}"] = state[f"{ours}.{part}"]
        for i in range(c["depth"]):
            for ours, theirs in BLOCK.items():
                found[f"transformer_blocks.{i}.{theirs}.{part}"] = state[f"blocks.{i}.{ours}.{part}"]
            for name, value in zip("qkv", state[f"blocks.{i}.attn.qkv.{part}"].chunk(3), strict=True):
                found[f"transformer_blocks.{i}.attn1.to_{name}.{part}"] = value
            for ours, theirs in EMBEDDERS.items():
                if f"{ours}.{part}" in state:
                    found[f"transformer_blocks.{i}.norm1.emb.{theirs}.{part}"] = state[f"{ours}.{part}"]
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
    model.load_state_dict({k: v.clone() for k, v in found.items()})
    return as_official(model).eval()


def as_official(model):
    """Set, in place, the two constants in which diffusers' network is not the official one.  -> model"""
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0
        block.norm3.eps = 1e-6
    return model


def from_diffusers(model):
    """A DiT with the weights of a `DiTTransformer2DModel`, the inverse of `to_diffusers`.

    Raises ValueError for a model whose blocks disagree in their embedders.
    """
    c, state, found = model.config, model.state_dict(), {}
    for part in ("weight", "bias"):
        for ours, theirs in ENDS.items():
            found[f"{ours}.{part}"] = state[f"{theirs}.{part}"]
        for i in range(c.num_layers):
            for ours, theirs in BLOCK.items():
                found[f"blocks.{i}.{ours}.{part}"] = state[f"transformer_blocks.{i}.{theirs}.{part}"]
            found[f"blocks.{i}.attn.qkv.{part}"] = torch.cat(
                [state[f"transformer_blocks.{i}.attn1.to_{name}.{part}"] for name in "qkv"]
            )
        for ours, theirs in EMBEDDERS.items():
            copies = [
                state.get(f"transformer_blocks.{i}.norm1.emb.{theirs}.{part}") for i in range(c.num_layers)
            ]
            if copies[0] is None:
                continue
            if not all(torch.equal(copies[0], other) for other in copies):
                raise ValueError(
                    f"model holds other weights of {theirs} in some blocks; expected one embedder for all"
                )
            found[f"{ours}.{part}"] = copies[0]
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

"""A DiT at speed on a CUDA device, for sampling: bfloat16, and nothing between two matrix products but one kernel.

The network of `network` stays the reference: what runs here has the same weights, under the same names. Nothing is compiled ahead; where
Triton is missing, the blocks run as they are.
"""

import importlib.util

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, silu

from .network import Block, DiT, Mlp, modulate

TRITON = importlib.util.find_spec("triton") is not None


def fast(*nets):
    """Make adapters (`VP`, `EDM`) fast for sampling, in place: weights in bfloat16, and on a CUDA device fused layers (`fuse`)."""
    for net in {id(n.net): n for n in nets if n is not None}.values():
        net.net.bfloat16()
        net.amp = False                                    # its weights are in that precision already
        if net.device.type == "cuda":
            fuse(net.net)
    torch.backends.cuda.matmul.allow_tf32 = True


def fuse(net):
    """Fuse the layers of a DiT, in place and without gradient: GELU into the product before it, and residual, layer norm and modulation into one kernel.

    Layers that an adapter wraps stay as they are, and so does a network that is no DiT, such as the guide that shares a LoRA's.
    """
    if type(net) is not DiT:
        return
    for block in net.blocks:
        if type(block.mlp) is Mlp and type(block.mlp.fc1) is nn.Linear:
            block.mlp.__class__ = FusedMlp
    if all(type(block) is Block for block in net.blocks):
        net.__class__ = FusedDiT


class FusedMlp(Mlp):
    """`Mlp` whose first product adds its bias and applies GELU before it writes: the widest tensor of the network is written once, not thrice."""

    def forward(self, h):
        return self.fc2(linear_gelu(h, self.fc1.weight, self.fc1.bias))


def linear_gelu(h, weight, bias):
    """gelu(h weight^T + bias) with the tanh form, on a CUDA device by one call of cuBLAS.  (..., n) -> (..., m)"""
    if not h.is_cuda:
        return gelu(linear(h, weight, bias), approximate="tanh")
    return torch._addmm_activation(bias, h.flatten(0, -2), weight.T, use_gelu=True).unflatten(0, h.shape[:-1])


class FusedDiT(DiT):
    """`DiT` whose tokens are read and written once between two products: each residual is added by the layer norm that follows it."""

    def tokens(self, h, c):
        c = silu(c)
        shifts = [block.adaLN_modulation[1](c)[:, None].chunk(6, -1) for block in self.blocks]          # shift, scale, gate; attention, then MLP
        last = self.final_layer.adaLN_modulation[1](c)[:, None].chunk(2, -1)
        normed = modulate(self.blocks[0].norm1(h), *shifts[0][:2])
        for block, own, following in zip(self.blocks, shifts, [*shifts[1:], last], strict=True):
            h, normed = gated_norm(h, block.attn(normed), own[2], *own[3:5])
            h, normed = gated_norm(h, block.mlp(normed), own[5], *following[:2])
        return self.final_layer.linear(normed)


def gated_norm(h, y, gate, shift, scale):
    """x = h + gate y, and what the next layer reads of it: norm(x) (1 + scale) + shift.  h, y (B, T, C), the others (B, 1, C) -> x, normed (B, T, C)"""
    if h.is_cuda and TRITON:
        from .kernels import gated_norm as kernel
        return kernel(h, y, gate, shift, scale)
    x = h + gate * y
    return x, modulate(layer_norm(x, x.shape[-1:], eps=1e-6), shift, scale)

"""A DiT at speed on a CUDA device: bfloat16, compiled blocks, and a kernel of cuBLAS that PyTorch does not choose by itself.

The network of `network` stays the reference: what runs here has the same weights, under the same names.
"""

import torch
from torch import nn

from .network import Mlp


def fast(*nets):
    """Make adapters (`VP`, `EDM`) fast for sampling: weights in bfloat16, and on a CUDA device GELU inside the product and compiled blocks. In place."""
    for net in {id(n.net): n for n in nets if n is not None}.values():
        net.net.bfloat16()
        net.amp = False                                    # its weights are in that precision already
        if net.device.type == "cuda":
            fuse(net.net)
            for block in net.net.blocks:
                block.compile()
    torch.backends.cuda.matmul.allow_tf32 = True


def fuse(net):
    """Let the blocks of a DiT on a CUDA device apply GELU inside the product before it; without gradient. Layers that an adapter wraps stay as they are."""
    for block in net.blocks:
        if type(block.mlp) is Mlp and type(block.mlp.fc1) is nn.Linear:
            block.mlp.__class__ = FusedMlp


class FusedMlp(Mlp):
    """`Mlp` whose first product adds its bias and applies GELU before it writes: the widest tensor of the network is written once, not thrice."""

    def forward(self, h):
        return self.fc2(linear_gelu(h, self.fc1.weight, self.fc1.bias))


@torch.library.custom_op("dgtoy::linear_gelu", mutates_args=())
def linear_gelu(h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """gelu(h weight^T + bias) with the tanh form, by one call of cuBLAS; without gradient.  (..., n) -> (..., m)"""
    return torch._addmm_activation(bias, h.flatten(0, -2), weight.T, use_gelu=True).unflatten(0, h.shape[:-1])


@linear_gelu.register_fake
def _(h, weight, bias):
    return h.new_empty(*h.shape[:-1], len(weight))

"""A DiT at speed on a CUDA device, for sampling: bfloat16 or 8-bit products, and between two of them one kernel.

The network of `network` stays the reference: what runs here has the same weights, under the same names. The tokens themselves, to which every
layer adds, are kept in float32: their rounding is what most of the error of bfloat16 comes from. Nothing is compiled ahead. Where there is no
CUDA device or no Triton, the same is computed by plain PyTorch.
"""

import importlib.util
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, pixel_unshuffle, silu

from .network import Block, DiT, Mlp, PatchEmbedder, modulate

TRITON = importlib.util.find_spec("triton") is not None
FP8_MAX = 448  # in the 8-bit format e4m3


def fast(*nets, fp8=False):
    """Make adapters (`VP`, `EDM`) fast for sampling, in place: weights in bfloat16, and on a CUDA device fused layers.

    fp8: see `fuse`; then on every device, so that its error can be seen anywhere.
    """
    for net in {id(n.net): n for n in nets if n is not None}.values():
        net.net.bfloat16()
        net.amp = False  # its weights are in that precision already
        if net.device.type == "cuda" or fp8:
            fuse(net.net, fp8)
    torch.backends.cuda.matmul.allow_tf32 = True


def fuse(net, fp8=False):
    """Fuse the layers of a DiT, in place and without gradient: GELU into the product before it, and residual, layer norm and modulation into one kernel.

    Layers that an adapter wraps stay as they are, and so does a network that is no DiT, such as the guide that shares a LoRA's.
    fp8: the four products of every block in 8-bit floating point, with a scale for each token and each output. Raises ValueError where
    the device has no such products or where an adapter wraps a layer.
    """
    if type(net) is not DiT:
        return
    plain = all(
        type(layer) is nn.Linear
        for block in net.blocks
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
    )
    if fp8:
        if not plain:
            raise ValueError(
                "fp8 is True and the network has layers of an adapter; expected a full fine-tune, or a merged one"
            )
        _check_device(net.pos_embed.device)
    for block in net.blocks:
        if fp8:
            block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2 = map(
                Fp8Linear, (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
            )
        if type(block.mlp) is Mlp and type(block.mlp.fc1) in (nn.Linear, Fp8Linear):
            block.mlp.__class__ = FusedMlp
    if all(type(block) is Block for block in net.blocks):
        net.__class__, net.x_embedder.__class__ = FusedDiT, FusedPatches


def _check_device(device):
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    if capability < (8, 9):
        raise ValueError(
            f"fp8 is True and the device has capability {capability[0]}.{capability[1]}; 8-bit products need 8.9 or later"
        )


class FusedPatches(PatchEmbedder):
    """`PatchEmbedder` as one product: its tokens lie in memory as the layers read them."""

    def forward(self, x):
        patches = pixel_unshuffle(x, self.proj.kernel_size[0]).flatten(2).mT  # (B, T, C p p)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class FusedMlp(Mlp):
    """`Mlp` whose widest tensor is written once, not thrice: GELU comes with the first product, or with the rounding to 8 bits."""

    def forward(self, h):
        if isinstance(self.fc1, Fp8Linear):
            return self.fc2(quantized(self.fc1(h), with_gelu=True))
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
        shifts = [
            block.adaLN_modulation[1](c)[:, None].chunk(6, -1) for block in self.blocks
        ]  # shift, scale, gate; attention, then MLP
        last = self.final_layer.adaLN_modulation[1](c)[:, None].chunk(2, -1)
        eight = isinstance(self.blocks[0].mlp.fc1, Fp8Linear)
        h, normed = gated_norm(
            self.pos_embed, h, torch.ones_like(shifts[0][2]), *shifts[0][:2], eight
        )  # position + patch
        for i, (block, own, following) in enumerate(
            zip(self.blocks, shifts, [*shifts[1:], last], strict=True), 1
        ):
            h, normed = gated_norm(h, block.attn(normed), own[2], *own[3:5], eight)
            h, normed = gated_norm(
                h, block.mlp(normed), own[5], *following[:2], eight and i < len(self.blocks)
            )
        return self.final_layer.linear(normed)


def gated_norm(h, y, gate, shift, scale, fp8=False):
    """x = h + gate y, and what the next layer reads of it: norm(x) (1 + scale) + shift, in y's precision or as `Quantized`.

    h (B or 1, T, C), y (B, T, C), the others (B, 1, C) -> x (B, T, C) in float32 or finer, normed (B, T, C)
    """
    if h.is_cuda and TRITON:
        from .kernels import gated_norm as kernel

        x, *normed = kernel(h, y, gate, shift, scale, fp8)
        return x, Quantized(*normed) if fp8 else normed[0]
    x = h.to(torch.promote_types(h.dtype, torch.float32)) + gate * y
    normed = modulate(layer_norm(x, x.shape[-1:], eps=1e-6), shift, scale)
    return x, quantized(normed) if fp8 else normed.to(y.dtype)


class Quantized(NamedTuple):
    """Rows in 8 bits, each with its scale: values (..., n) float8_e4m3fn, scale (..., 1) float32."""

    values: torch.Tensor
    scale: torch.Tensor


def quantized(x, with_gelu=False):
    """x, or gelu(x), to 8 bits; the largest entry of each row becomes the largest number of the format.  (..., n) -> Quantized"""
    if x.is_cuda and TRITON:
        from .kernels import quantized as kernel

        return Quantized(*kernel(x, with_gelu))
    x = gelu(x.float(), approximate="tanh") if with_gelu else x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return Quantized((x / scale).to(torch.float8_e4m3fn), scale)


class Fp8Linear(nn.Module):
    """A linear layer whose product is taken in 8-bit floating point: a scale for each row of the input and for each output of the weight."""

    def __init__(self, layer):
        super().__init__()
        values, scale = quantized(layer.weight.detach())
        self.register_buffer("weight", values)  # (m, n)
        self.register_buffer("scale", scale.T.contiguous())  # (1, m)
        self.bias = layer.bias

    def forward(self, h):
        """(..., n), as numbers or `Quantized` -> (..., m), in the bias's precision"""
        values, scale = h if isinstance(h, Quantized) else quantized(h)
        if not values.is_cuda:
            return linear(values.float() * scale, self.weight.float() * self.scale.T, self.bias.float()).to(
                self.bias.dtype
            )
        out = torch._scaled_mm(
            values.flatten(0, -2),
            self.weight.T,
            scale_a=scale.flatten(0, -2),
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=self.bias.dtype,
        )
        return out.unflatten(0, values.shape[:-1])

"""A DiT at speed on a CUDA device, for sampling: products in bfloat16 or fp8, one kernel between two.

The network of `network` stays the reference: what runs here holds the same parameters under the same names.
The tokens themselves, to which every layer adds, are kept in float32: their rounding is most of the error of
bfloat16. Nothing is compiled ahead. Where there is no CUDA device or no Triton, plain PyTorch computes the
same.
"""

import functools
import importlib.util
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, linear, pixel_unshuffle, silu

from .network import Attention, DiT, Mlp, PatchEmbedder, modulate

TRITON = importlib.util.find_spec("triton") is not None
FP8_MAX = 448  # the largest number of float8_e4m3fn


def fast(*models, fp8=False):
    """Make denoisers fast for sampling, in place: bfloat16 weights, and on a CUDA device fused layers.

    models: `EDM`s, `VP`s and their like; None among them is skipped. fp8: see `fused`; then on every device,
    so that its error can be seen anywhere. No switch of torch is touched.
    """
    for model in models:
        if model is not None:
            model.net.bfloat16()
            model.amp = False  # its weights are in that precision already
            if model.device.type == "cuda" or fp8:
                model.net = fused(model.net, fp8)


@functools.singledispatch
def fused(net, fp8=False):
    """A DiT with fused layers around the parameters of `net`, which stays as it is; other networks come back.

    GELU comes with the product before it; residual, layer norm and modulation are one kernel. For sampling:
    it has no gradient. Layers that a LoRA adapter wraps are used as they are. fp8: the four products of every
    block in 8-bit floating point, with a scale for each token and each output; their weights are copied.
    Raises ValueError where the device has no such products or an adapter wraps a layer.
    """
    return net


@fused.register
def _fused_dit(net: DiT, fp8=False):
    if isinstance(net, FusedDiT):
        return net
    if fp8:
        _check_fp8(net)
    return FusedDiT(net, fp8)


def _check_fp8(net):
    """Raise if a network, or the device it is on, has no products in 8 bits."""
    device = net.pos_embed.device
    major, minor = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    if (major, minor) < (8, 9):
        raise ValueError(f"fp8 is True and the device has capability {major}.{minor}; expected 8.9 or later")
    for block in net.blocks:
        for layer in (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2):
            if type(layer) is not nn.Linear:
                raise ValueError(
                    f"fp8 is True and a layer of the network is a {type(layer).__name__} of an adapter; "
                    "expected a full fine-tune, or a merged one"
                )


class FusedDiT(DiT):
    """A DiT around another's parameters, whose tokens are read and written once between two products.

    Each residual is added by the layer norm that follows it.
    """

    def __init__(self, net, fp8=False):
        nn.Module.__init__(self)
        self.config, self.null, self.shape, self.fp8 = net.config, net.null, net.shape, fp8
        for name, buffer in net.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        for name, part in net.named_children():
            self.add_module(name, part)
        self.x_embedder = FusedPatches(net.x_embedder)
        self.blocks = nn.ModuleList(FusedBlock(block, fp8) for block in net.blocks)

    def tokens(self, h, c):
        c = silu(c)
        # per block shift, scale, gate of attention, then of the MLP; each (B, 1, C)
        modulations = [block.adaLN_modulation[1](c)[:, None].chunk(6, -1) for block in self.blocks]
        last = self.final_layer.adaLN_modulation[1](c)[:, None].chunk(2, -1)
        one = torch.ones_like(last[0])
        h, normed = gated_norm(self.pos_embed, h, one, *modulations[0][:2], fp8=self.fp8)  # position + patch
        for block, own, following in zip(self.blocks, modulations, [*modulations[1:], last], strict=True):
            h, normed = gated_norm(h, block.attn(normed), own[2], *own[3:5], fp8=self.fp8)
            fp8 = self.fp8 and following is not last
            h, normed = gated_norm(h, block.mlp(normed), own[5], *following[:2], fp8=fp8)
        return self.final_layer.linear(normed)


class FusedBlock(nn.Module):
    """The parts of a `Block` that `FusedDiT` calls, around the block's parameters."""

    def __init__(self, block, fp8=False):
        super().__init__()
        self.attn = FusedAttention(block.attn) if fp8 else block.attn
        self.mlp = FusedMlp(block.mlp, fp8) if type(block.mlp.fc1) is nn.Linear else block.mlp
        self.adaLN_modulation = block.adaLN_modulation


class FusedPatches(PatchEmbedder):
    """`PatchEmbedder` as one product: its tokens lie in memory as the layers read them."""

    def __init__(self, embedder):
        nn.Module.__init__(self)
        self.proj = embedder.proj

    def forward(self, x):
        patches = pixel_unshuffle(x, self.proj.kernel_size[0]).flatten(2).mT  # (B, T, C p p)
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class FusedAttention(Attention):
    """`Attention` with both products in 8 bits."""

    def __init__(self, attention):
        nn.Module.__init__(self)
        self.num_heads = attention.num_heads
        self.qkv, self.proj = Fp8Linear(attention.qkv), Fp8Linear(attention.proj)


class FusedMlp(Mlp):
    """`Mlp` whose widest tensor is written once, not thrice: GELU joins the product, or the rounding."""

    def __init__(self, mlp, fp8=False):
        nn.Module.__init__(self)
        self.fc1, self.fc2 = (Fp8Linear(mlp.fc1), Fp8Linear(mlp.fc2)) if fp8 else (mlp.fc1, mlp.fc2)

    def forward(self, h):
        if isinstance(self.fc1, Fp8Linear):
            return self.fc2(quantized(self.fc1(h), with_gelu=True))
        return self.fc2(linear_gelu(h, self.fc1.weight, self.fc1.bias))


def linear_gelu(h, weight, bias):
    """gelu(h weight^T + bias), tanh form; on a CUDA device one call of cuBLAS.  (..., n) -> (..., m)"""
    if not h.is_cuda:
        return gelu(linear(h, weight, bias), approximate="tanh")
    return torch._addmm_activation(bias, h.flatten(0, -2), weight.T, use_gelu=True).unflatten(0, h.shape[:-1])


def gated_norm(h, y, gate, shift, scale, fp8=False):
    """x = h + gate y, and what the next layer reads of it: layer_norm(x) (1 + scale) + shift.

    h (B or 1, T, C), y (B, T, C), the others (B, 1, C) -> x (B, T, C) in float32 or finer, normed (B, T, C)
    in y's precision, with fp8 as `Quantized`.
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
    """x, or gelu(x), in 8 bits, the largest entry of each row at FP8_MAX.  (..., n) -> Quantized"""
    if x.is_cuda and TRITON:
        from .kernels import quantized as kernel

        return Quantized(*kernel(x, with_gelu))
    x = gelu(x.float(), approximate="tanh") if with_gelu else x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / FP8_MAX
    return Quantized((x / scale).to(torch.float8_e4m3fn), scale)


class Fp8Linear(nn.Module):
    """A linear layer whose product is taken in 8 bits: a scale per row of the input and per output."""

    def __init__(self, layer):
        super().__init__()
        values, scale = quantized(layer.weight.detach())
        self.register_buffer("weight", values)  # (m, n)
        self.register_buffer("scale", scale.T.contiguous())  # (1, m)
        self.bias = layer.bias

    def forward(self, h):
        """(..., n), as numbers or `Quantized` -> (..., m), in the bias's precision"""
        values, scale = h if isinstance(h, Quantized) else quantized(h)
        dtype = self.bias.dtype
        if not values.is_cuda:
            weight = self.weight.float() * self.scale.T
            return linear(values.float() * scale, weight, self.bias.float()).to(dtype)
        out = torch._scaled_mm(
            values.flatten(0, -2),
            self.weight.T,
            scale_a=scale.flatten(0, -2),
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=dtype,
        )
        return out.unflatten(0, values.shape[:-1])

"""The kernel of `fast.gated_norm`, in Triton: what it computes is stated there, in three lines of PyTorch."""

import torch
import triton
import triton.language as tl


def gated_norm(h, y, gate, shift, scale):
    """h, y (B, T, C), gate, shift, scale (B, 1, C) -> x, normed (B, T, C)"""
    (B, T, C), h, y = h.shape, h.contiguous(), y.contiguous()
    x, normed = torch.empty_like(h), torch.empty_like(h)
    by_image = [a if a.stride(-1) == 1 else a.contiguous() for a in (gate, shift, scale)]
    _gated_norm[(B * T,)](h, y, *by_image, x, normed, T, *(a.stride(0) for a in by_image), C, triton.next_power_of_2(C), num_warps=4)
    return x, normed


@triton.jit
def _gated_norm(h, y, gate, shift, scale, x_out, normed_out, T, gate_step, shift_step, scale_step, C: tl.constexpr, BLOCK: tl.constexpr):
    """One token: a row of C numbers, in float32 from reading to writing. *_step: from one image to the next."""
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, at, image = i < C, row * C + i, row // T
    x = tl.load(h + at, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(gate + image * gate_step + i, mask=inside, other=0.0).to(tl.float32) * tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(x_out + at, x, mask=inside)
    away = tl.where(inside, x - tl.sum(x) / C, 0.0)
    normed = away * tl.rsqrt(tl.sum(away * away) / C + 1e-6)
    normed *= 1 + tl.load(scale + image * scale_step + i, mask=inside, other=0.0).to(tl.float32)
    normed += tl.load(shift + image * shift_step + i, mask=inside, other=0.0).to(tl.float32)
    tl.store(normed_out + at, normed, mask=inside)

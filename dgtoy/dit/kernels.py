"""The kernels of `fast`, in Triton: what they compute is stated there, in a few lines of PyTorch.

Each row is read once, and is in float32 until it is written.
"""

import torch
import triton
import triton.language as tl


def gated_norm(h, y, gate, shift, scale, fp8):
    """h (B or 1, T, C), y (B, T, C), gate, shift, scale (B, 1, C) -> x, normed (B, T, C)

    With fp8 a third, the scale of normed (B, T, 1).
    """
    (B, T, C), h, y = y.shape, h.contiguous().expand_as(y), y.contiguous()
    x, normed = (
        torch.empty_like(y, dtype=torch.float32),
        torch.empty_like(y, dtype=torch.float8_e4m3fn if fp8 else y.dtype),
    )
    largest = torch.empty(B, T, 1, device=h.device) if fp8 else x
    by_image = [a if a.stride(-1) == 1 else a.contiguous() for a in (gate, shift, scale)]
    _gated_norm[(B * T,)](
        h,
        y,
        *by_image,
        x,
        normed,
        largest,
        T,
        *(a.stride(0) for a in (h, *by_image)),
        C,
        triton.next_power_of_2(C),
        fp8,
        num_warps=2,
    )
    return (x, normed, largest) if fp8 else (x, normed)


def quantized(x, with_gelu):
    """x (..., n) -> values (..., n) in 8 bits, scale (..., 1)"""
    x = x.contiguous()
    values, scale = (
        torch.empty_like(x, dtype=torch.float8_e4m3fn),
        torch.empty(*x.shape[:-1], 1, device=x.device),
    )
    n = x.shape[-1]
    _quantize[(x.numel() // n,)](
        x, values, scale, n, triton.next_power_of_2(n), with_gelu, num_warps=4 if n <= 2048 else 8
    )
    return values, scale


@triton.jit
def _gated_norm(
    h,
    y,
    gate,
    shift,
    scale,
    x_out,
    normed_out,
    largest,
    T,
    h_step,
    gate_step,
    shift_step,
    scale_step,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    FP8: tl.constexpr,
):
    """One token: a row of C numbers. *_step: from one image to the next."""
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, at, image = i < C, row * C + i, row // T
    x = tl.load(h + image * h_step + row % T * C + i, mask=inside, other=0.0).to(tl.float32)
    x += tl.load(gate + image * gate_step + i, mask=inside, other=0.0).to(tl.float32) * tl.load(
        y + at, mask=inside, other=0.0
    ).to(tl.float32)
    tl.store(x_out + at, x, mask=inside)
    away = tl.where(inside, x - tl.sum(x) / C, 0.0)
    normed = away * tl.rsqrt(tl.sum(away * away) / C + 1e-6)
    normed *= 1 + tl.load(scale + image * scale_step + i, mask=inside, other=0.0).to(tl.float32)
    normed += tl.load(shift + image * shift_step + i, mask=inside, other=0.0).to(tl.float32)
    if FP8:
        unit = tl.maximum(tl.max(tl.abs(normed)), 1e-12) / 448
        tl.store(largest + row, unit)
        tl.store(normed_out + at, (normed / unit).to(tl.float8e4nv), mask=inside)
    else:
        tl.store(normed_out + at, normed, mask=inside)


@triton.jit
def _quantize(x, values, scale, n: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr):
    """One row of n numbers. gelu(x) = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)) in its tanh form."""
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, at = i < n, row * n + i
    a = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if GELU:
        a *= tl.sigmoid(1.5957691216057308 * (a + 0.044715 * a * a * a))
    unit = tl.maximum(tl.max(tl.abs(a)), 1e-12) / 448
    tl.store(scale + row, unit)
    tl.store(values + at, (a / unit).to(tl.float8e4nv), mask=inside)

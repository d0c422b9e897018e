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
    B, T, C = y.shape
    h, y = h.contiguous().expand_as(y), y.contiguous()
    x = torch.empty_like(y, dtype=torch.float32)
    normed = torch.empty_like(y, dtype=torch.float8_e4m3fn if fp8 else y.dtype)
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
    x, n = x.contiguous(), x.shape[-1]
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(*x.shape[:-1], 1, device=x.device)
    warps = 4 if n <= 2048 else 8
    _quantize[(scale.numel(),)](x, values, scale, n, triton.next_power_of_2(n), with_gelu, num_warps=warps)
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
    x = _read(h + image * h_step + row % T * C + i, inside)
    x += _read(gate + image * gate_step + i, inside) * _read(y + at, inside)
    tl.store(x_out + at, x, mask=inside)
    away = tl.where(inside, x - tl.sum(x) / C, 0.0)
    normed = away * tl.rsqrt(tl.sum(away * away) / C + 1e-6)
    normed *= 1 + _read(scale + image * scale_step + i, inside)
    normed += _read(shift + image * shift_step + i, inside)
    if FP8:
        _write_fp8(normed, normed_out + at, largest + row, inside)
    else:
        tl.store(normed_out + at, normed, mask=inside)


@triton.jit
def _quantize(x, values, scale, n: tl.constexpr, BLOCK: tl.constexpr, GELU: tl.constexpr):
    """One row of n numbers. gelu(x) = x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)) in its tanh form."""
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside, at = i < n, row * n + i
    a = _read(x + at, inside)
    if GELU:
        a *= tl.sigmoid(1.5957691216057308 * (a + 0.044715 * a * a * a))
    _write_fp8(a, values + at, scale + row, inside)


@triton.jit
def _read(at, inside):
    """A row in float32, 0 beyond its end."""
    return tl.load(at, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _write_fp8(row, at, scale, inside):
    """A row in 8 bits, its largest entry at 448, and its scale."""
    unit = tl.maximum(tl.max(tl.abs(row)), 1e-12) / 448
    tl.store(scale, unit)
    tl.store(at, (row / unit).to(tl.float8e4nv), mask=inside)

"""One Mamba block between in_proj and out_proj as a single operation of PyTorch, on the CPU.

What `MambaBlock` computes step by step, computed here in two passes over each sequence, forwards
and backwards, in C++: a training step takes a fraction of the time. The block's own steps stay the
reference that tests hold this to.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from emamba.compiler import Compiler, NativeError, Recipe, build, cache_folder
from emamba.config import Fixed

__all__ = ["ROUNDED", "Fusion", "Rounding", "available", "mix"]

ROUNDED = ("x", "z", "u", "dt", "B", "C", "delta", "dt_A", "h_wide", "h", "y", "g")
# -ffast-math lets loops use vectorised exp. Without start files it does not bring the code that
# makes the whole process flush small floats to zero.
_RECIPE = Recipe(
    generated={},
    folders=(".",),
    sources=("fused.cpp",),
    flags=("-O3", "-fopenmp", "-ffast-math", "-nostartfiles"),
    root=Path(__file__).parent,
)


@dataclass(frozen=True)
class Rounding:
    """Formats of a block's numbers, by the names of `ROUNDED`, and its tables at every argument.

    `exp` and `silu` are float32 values for the arguments `-top .. top` of `dt_A` and `z`.
    """

    formats: Mapping[str, Fixed]
    exp: Tensor
    silu: Tensor


@dataclass(frozen=True)
class Fusion:
    """That a block may be computed at once, and how it rounds; None for plain floats."""

    rounding: Rounding | None = None


class _Format(ctypes.Structure):
    _fields_ = [(name, ctypes.c_float) for name in ("lsb", "per_lsb", "top")]


class _Rounding(ctypes.Structure):
    _fields_ = [
        *((name, _Format) for name in ROUNDED),
        ("exp", ctypes.c_void_p),
        ("silu", ctypes.c_void_p),
    ]


class _Sizes(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_long)
        for name in ("batch", "length", "d_inner", "d_state", "dt_rank", "d_conv", "threads")
    ]


class _Weights(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_void_p) for name in ("conv", "conv_bias", "dt", "dt_bias", "A", "D")
    ]


@cache
def _library() -> ctypes.CDLL | None:
    try:
        path = build(_RECIPE, Compiler.find(), cache_folder())
    except NativeError:
        return None
    return ctypes.CDLL(str(path))


def available() -> bool:
    """Whether this machine has a C++ compiler that makes the operation; False on the first miss."""
    return _library() is not None


def mix(
    xz: Tensor,
    conv: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    rounding: Rounding | None = None,
) -> Tensor:
    """g (b, l, d) of in_proj's xz (b, l, 2 d), float32 or bfloat16; differentiable.

    Weights are float32: conv (d, k), x_proj (r + 2 n, d), dt (d, r), A (d, n), the others (d,).
    States are kept in float32. With `rounding` forward values are rounded as the integer pipeline
    rounds them, up to float32's own precision; gradients pass rounding straight.
    """
    out: Tensor = _Mix.apply(  # type: ignore[no-untyped-call]
        xz.contiguous(),
        conv.t().contiguous(),
        conv_bias,
        x_proj,
        dt.t().contiguous(),
        dt_bias,
        A.t().contiguous(),
        D,
        rounding,
    )
    return out


class _Call:
    """Arguments that all four functions of the library take, and the tensors they point into."""

    def __init__(self, xz: Tensor, weights: list[Tensor], rounding: Rounding | None) -> None:
        conv, _, dt, _, A, D = self.weights = [w.detach().float().contiguous() for w in weights]
        batch, length, _ = xz.shape
        threads = torch.get_num_threads()
        self.sizes = _Sizes(batch, length, len(D), len(A), len(dt), len(conv), threads)
        self.pointers = _Weights(*(w.data_ptr() for w in self.weights))
        self.rounding = None if rounding is None else _rounding(rounding)
        self.half = xz.dtype == torch.bfloat16

    def __call__(self, name: str, *tensors: Tensor, into: list[Tensor] | None = None) -> None:
        library = _library()
        assert library is not None
        arguments: list[Any] = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
        if into is not None:
            arguments.append(ctypes.byref(_Weights(*(grad.data_ptr() for grad in into))))
        getattr(library, name)(
            ctypes.byref(self.sizes),
            ctypes.byref(self.pointers),
            None if self.rounding is None else ctypes.byref(self.rounding),
            ctypes.c_bool(self.half),
            *arguments,
        )


def _rounding(rounding: Rounding) -> _Rounding:
    formats = (rounding.formats[name] for name in ROUNDED)
    return _Rounding(
        *(_Format(fmt.lsb, 1 / fmt.lsb, fmt.max_int) for fmt in formats),
        rounding.exp.data_ptr(),
        rounding.silu.data_ptr(),
    )


class _Mix(torch.autograd.Function):
    """Weights come transposed, channels last."""

    @staticmethod
    def forward(
        ctx: Any,
        xz: Tensor,
        conv: Tensor,
        conv_bias: Tensor,
        x_proj: Tensor,
        dt: Tensor,
        dt_bias: Tensor,
        A: Tensor,
        D: Tensor,
        rounding: Rounding | None,
    ) -> Tensor:
        call = _Call(xz, [conv, conv_bias, dt, dt_bias, A, D], rounding)
        batch, length, width = xz.shape
        u = xz.new_empty(batch, length, width // 2)
        call("emamba_convolve", xz, u)
        dbc = u @ x_proj.to(u.dtype).t()
        h = torch.empty(batch, length, len(A), width // 2)
        g = torch.empty_like(u)
        call("emamba_scan", xz, u, dbc, h, g)
        ctx.call, ctx.rounding = call, rounding
        ctx.save_for_backward(xz, x_proj, u, dbc, h)
        return g

    @staticmethod
    def backward(ctx: Any, gg: Tensor) -> tuple[Tensor | None, ...]:
        xz, x_proj, u, dbc, h = ctx.saved_tensors
        call = ctx.call
        gxz, gu, gdbc = torch.empty_like(xz), torch.empty_like(u), torch.empty_like(dbc)
        grads = [torch.zeros_like(weight) for weight in call.weights]
        call("emamba_scan_back", xz, u, dbc, h, gg.contiguous(), gxz, gu, gdbc, into=grads)
        gu += gdbc @ x_proj.to(u.dtype)
        gx_proj = gdbc.flatten(0, 1).t() @ u.flatten(0, 1)
        call("emamba_convolve_back", xz, gu, gxz, into=grads)
        gconv, gconv_bias, gdt, gdt_bias, gA, gD = grads
        return gxz, gconv, gconv_bias, gx_proj.float(), gdt, gdt_bias, gA, gD, None

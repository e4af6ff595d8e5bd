"""The integer pipeline once more, one number at a time in Python integers.

A second implementation of docs/numbers.md: unbounded integers, no NumPy arithmetic, no
vectorisation. Slow; for small configs.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from emamba.fixed import IntegerModel, IntegerTable

Vector = list[int]
SLOPE_FRAC = 12


def rescale(acc: int, acc_frac: int, width: int, frac: int) -> int:
    shift = acc_frac - frac
    value = (acc + (1 << (shift - 1))) >> shift if shift > 0 else acc * 2**-shift
    top = 2 ** (width - 1) - 1
    return max(-top, min(top, value))


class Oracle:
    """Runs one frame of an `IntegerModel`."""

    def __init__(self, model: IntegerModel) -> None:
        self.m, self.c = model, model.config
        self.f = {name: fmt.frac for name, fmt in model.formats.items()}

    def end(self, name: str, acc: int, acc_frac: int) -> int:
        fmt = self.m.formats[name]
        return rescale(acc, acc_frac, fmt.width, fmt.frac)

    def tensor(self, name: str) -> Any:
        return self.m.tensors[name].tolist()

    def linear(self, layer: str, x: Vector, x_name: str) -> tuple[Vector, int]:
        frac = self.f[x_name] + self.f[f"{layer}.weight"]
        rows = [
            sum(w * v for w, v in zip(row, x, strict=True))
            for row in self.tensor(f"{layer}.weight")
        ]
        if f"{layer}.bias" in self.m.tensors:
            left = frac - self.f[f"{layer}.bias"]
            rows = [
                r + b * 2**left for r, b in zip(rows, self.tensor(f"{layer}.bias"), strict=True)
            ]
        return rows, frac

    def table(self, name: str, x: int) -> int:
        t: IntegerTable = self.m.tables[name]
        row = sum(x >= b for b in t.breakpoints.tolist())
        acc = t.slope.tolist()[row] * x + t.intercept.tolist()[row]
        y = rescale(acc, t.x_format.frac + SLOPE_FRAC, t.y_format.width, t.y_format.frac)
        return max(0, min(128, y)) if name.endswith("exp") else y

    def run(self, frame: np.ndarray) -> Vector:
        c, maps = self.c, frame.tolist()
        tokens = []
        for top in range(0, c.input_height, c.patch):
            for left in range(0, c.input_width, c.patch):
                patch = [
                    value
                    for row in maps[top : top + c.patch]
                    for pixel in row[left : left + c.patch]
                    for value in pixel
                ]
                rows, frac = self.linear("patch_embed", patch, "input")
                tokens.append([self.end("residual", r, frac) for r in rows])
        for i in range(c.n_layer):
            tokens = self.block(tokens, f"blocks.{i}.")
        flat = [self.end("head.input", v, self.f["residual"]) for t in tokens for v in t]
        rows, frac = self.linear("head.fc1", flat, "head.input")
        hidden = [self.end("head.hidden", max(r, 0), frac) for r in rows]
        rows, frac = self.linear("head.fc2", hidden, "head.hidden")
        return [self.end("output", r, frac) for r in rows]

    def block(self, tokens: list[Vector], at: str) -> list[Vector]:
        c, past = self.c, [[0] * self.c.d_inner for _ in range(self.c.d_conv - 1)]
        state = [[0] * c.d_state for _ in range(c.d_inner)]
        out = []
        for token in tokens:
            rows, frac = self.linear(at + "in_proj", self.norm(token, at), at + "norm")
            x = [self.end(at + "x", r, frac) for r in rows[: c.d_inner]]
            z = [self.end(at + "z", r, frac) for r in rows[c.d_inner :]]
            past = [*past, x]
            u = self.conv(past[-c.d_conv :], at)
            y = self.scan(u, state, at)
            frac = self.f[at + "y"] + self.f[at + "gate"]
            g = [
                self.end(at + "g", a * self.table(at + "silu", b), frac)
                for a, b in zip(y, z, strict=True)
            ]
            rows, frac = self.linear(at + "out_proj", g, at + "g")
            left = frac - self.f["residual"]
            out.append(
                [
                    self.end("residual", r + v * 2**left, frac)
                    for r, v in zip(rows, token, strict=True)
                ]
            )
        return out

    def norm(self, x: Vector, at: str) -> Vector:
        gamma, beta = self.tensor(at + "norm.gamma"), self.tensor(at + "norm.beta")
        d = len(x)
        mean = (2 * sum(x) + d) // (2 * d)
        spread = max(x) - min(x)
        left = 16 - spread.bit_length()
        reciprocal = 2**30 // (spread << left) if spread else 0
        frac = 15 + self.f[at + "norm.gamma"]
        out = []
        for value, g, b in zip(x, gamma, beta, strict=True):
            unit = (((value - mean) << left) * reciprocal + 2**14) >> 15
            out.append(
                self.end(at + "norm", unit * g + b * 2 ** (frac - self.f[at + "norm.beta"]), frac)
            )
        return out

    def conv(self, window: list[Vector], at: str) -> Vector:
        frac = self.f[at + "x"] + self.f[at + "conv1d.weight"]
        left = frac - self.f[at + "conv1d.bias"]
        weight, bias = self.tensor(at + "conv1d.weight"), self.tensor(at + "conv1d.bias")
        return [
            self.end(
                at + "u",
                bias[d] * 2**left + sum(w * x[d] for w, x in zip(weight[d], window, strict=True)),
                frac,
            )
            for d in range(self.c.d_inner)
        ]

    def scan(self, u: Vector, state: list[Vector], at: str) -> Vector:
        f, r, n = self.f, self.c.dt_rank, self.c.d_state
        rows, frac = self.linear(at + "x_proj", u, at + "u")
        dt = [self.end(at + "dt", v, frac) for v in rows[:r]]
        B = [self.end(at + "B", v, frac) for v in rows[r : r + n]]
        C = [self.end(at + "C", v, frac) for v in rows[r + n :]]
        rows, frac = self.linear(at + "dt_proj", dt, at + "dt")
        delta = [self.end(at + "delta", max(v, 0), frac) for v in rows]
        A, D = self.tensor(at + "A"), self.tensor(at + "D")
        y_frac, out = f[at + "C"] + f[at + "h_wide"], []
        for d in range(self.c.d_inner):
            acc = D[d] * u[d] * 2 ** (y_frac - f[at + "D"] - f[at + "u"])
            for i in range(n):
                argument = self.end(at + "dt_A", delta[d] * A[d][i], f[at + "delta"] + f[at + "A"])
                dBu = self.end(
                    at + "dBu",
                    delta[d] * u[d] * B[i],
                    f[at + "delta"] + f[at + "u"] + f[at + "B"],
                )
                raw = self.table(at + "exp", argument) * state[d][i] + dBu
                wide = self.end(at + "h_wide", raw, f[at + "h_wide"])
                acc += C[i] * wide
                state[d][i] = self.end(at + "h", wide, f[at + "h_wide"])
            out.append(self.end(at + "y", acc, y_frac))
        return out

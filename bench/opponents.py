"""What one would run instead of our engines: PyTorch and ONNX Runtime, each in several variants.

Variants differ in how the network is written (as shipped, or `bench.rewritten`) and in its
functions: the shipped piecewise-linear tables, or SiLU and exp themselves ("exact"), which float
runtimes compute faster, at the same accuracy. No variant is timed before its outputs were compared.
"""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import torch
from bench.rewritten import Rewritten, with_exact_functions
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from emamba.model import EMamba

__all__ = [
    "TOLERANCE",
    "Contender",
    "Floats",
    "MismatchError",
    "export",
    "onnx_runtime",
    "onnx_runtime_as_trained",
    "pytorch",
    "session_runner",
]

# Largest difference of two FP32 orders of summation over outputs up to 7: 4e-6 measured.
TOLERANCE = 2e-5
COMPILE_LIMIT_S = 180
# The newest that the exporter writes.
OPSET = 20
# The fastest in FP32. Dynamic quantisation leaves batch-last products, weights first, in FP32.
QUANTISED = ("rewritten, exact", "rewritten, exact, batch last")

Floats = npt.NDArray[np.float32]


class MismatchError(Exception):
    """An engine whose outputs are not those of the network it was made from."""


@dataclass(frozen=True)
class Contender:
    """One engine in one variant; `run` takes the first so many frames and gives their outputs."""

    engine: str
    variant: str
    run: Callable[[int], npt.NDArray[Any]]


@dataclass(frozen=True)
class _Form:
    """A way to write the network, with the outputs it must give."""

    variant: str
    network: nn.Module
    expected: Floats


def pytorch(
    network: EMamba, frames: Floats, batches: tuple[int, ...], threads: int, with_compiled: bool
) -> tuple[list[Contender], list[str]]:
    """PyTorch eager and compiled, and a note for each variant that could not be compiled."""
    torch.set_num_threads(threads)
    shipped, tables, exact, exact_last = _forms(network, frames)
    eager = [
        Contender("PyTorch eager FP32", form.variant, _torch_runner(form.network, frames))
        for form in (shipped, exact, exact_last)
    ]
    compiled, notes = [], []
    for form in (tables, exact, exact_last) if with_compiled else ():
        try:
            compiled.append(_compile(form, frames, batches))
        # Whatever stops the compiler, from a missing g++ to a bug, is worth a line, not the run.
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            notes.append(f"PyTorch compiled FP32, {form.variant}, is left out: {reason}")
    for contender, form in zip(eager, (shipped, exact, exact_last), strict=True):
        _check(contender, form.expected)
    return eager + compiled, notes


def onnx_runtime(network: EMamba, frames: Floats, threads: int) -> list[Contender]:
    """ONNX Runtime in FP32 and INT8; calibrated on `frames`."""
    contenders = []
    with tempfile.TemporaryDirectory() as folder:
        for index, form in enumerate(_forms(network, frames)):
            path = Path(folder) / f"{index}.onnx"
            operations = ("MatMul", "Gemm") if form.variant in QUANTISED else ()
            contenders += _sessions(form, path, frames, threads, operations)
    return contenders


def onnx_runtime_as_trained(network: nn.Module, frames: Floats) -> list[Contender]:
    """Any network in ONNX Runtime, FP32 and INT8, on one thread; calibrated on `frames`."""
    form = _Form("as trained", network, _torch_runner(network, frames)(len(frames)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        return _sessions(form, path, frames, 1, ("Conv", "MatMul", "Gemm"))


def _sessions(
    form: _Form, path: Path, frames: Floats, threads: int, operations: Sequence[str]
) -> list[Contender]:
    """FP32, its outputs compared; INT8 as well where there are `operations` to quantise."""
    export(form.network, frames[:8], path)
    plain = Contender("ONNX Runtime FP32", form.variant, session_runner(path, frames, threads))
    _check(plain, form.expected)
    quantised = _quantise(path, frames, operations) if operations else {}
    return [
        plain,
        *(
            Contender(
                "ONNX Runtime INT8",
                f"{method}, {form.variant}",
                session_runner(written, frames, threads),
            )
            for method, written in quantised.items()
        ),
    ]


def _forms(network: EMamba, frames: Floats) -> list[_Form]:
    """As shipped; rewritten; that with exact functions; that batch-last as well."""
    exact = with_exact_functions(network)
    same, near = (_torch_runner(twin, frames)(len(frames)) for twin in (network, exact))
    return [
        _Form("as shipped", network, same),
        _Form("rewritten", Rewritten(network), same),
        _Form("rewritten, exact", Rewritten(exact), near),
        _Form("rewritten, exact, batch last", Rewritten(exact, batch_last=True), near),
    ]


def _check(contender: Contender, expected: Floats) -> None:
    difference = float(np.abs(contender.run(len(expected)) - expected).max())
    if not difference <= TOLERANCE:
        raise MismatchError(
            f"{contender.engine}, {contender.variant}: outputs must be within {TOLERANCE} of the "
            f"network's, but differ by {difference:.3g}"
        )


def _torch_runner(network: Callable[[Tensor], Tensor], frames: Floats) -> Callable[[int], Floats]:
    tensors = torch.from_numpy(frames)

    def run(batch: int) -> Floats:
        with torch.inference_mode():
            out: Floats = network(tensors[:batch]).numpy()
        return out

    return run


def _compile(form: _Form, frames: Floats, batches: tuple[int, ...]) -> Contender:
    """Compile for each batch size; raises what the compiler raises, or `TimeoutError`."""
    # All forms share one `forward`, compiled once for each batch size: more often than the default.
    torch._dynamo.config.recompile_limit = 64
    run = _torch_runner(torch.compile(form.network, dynamic=False), frames)
    contender = Contender("PyTorch compiled FP32", form.variant, run)
    with _time_limit(COMPILE_LIMIT_S):
        for batch in batches:
            contender.run(batch)
        _check(contender, form.expected)
    return contender


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"compiling took more than {seconds} s")

    previous = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)


def export(network: nn.Module, example: Floats, path: Path) -> None:
    """Write `network` as ONNX, its batch of any size."""
    # The older of torch's two exporters: its graphs ran faster, as shipped twice as fast.
    torch.onnx.export(
        network,
        (torch.from_numpy(example),),
        path,
        dynamo=False,
        input_names=["maps"],
        output_names=["outputs"],
        dynamic_axes={"maps": {0: "batch"}, "outputs": {0: "batch"}},
        opset_version=OPSET,
    )


def session_runner(path: Path, frames: Floats, threads: int) -> Callable[[int], Floats]:
    """Runs the ONNX network on the first so many frames, in ONNX Runtime."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch: int) -> Floats:
        out: Floats = session.run(None, {"maps": frames[:batch]})[0]
        return out

    return run


class _Calibration:
    """Frames in the shape that ONNX Runtime's calibration asks for."""

    def __init__(self, frames: Floats) -> None:
        self._parts = iter(np.array_split(frames, 16))

    def get_next(self) -> dict[str, Floats] | None:
        part = next(self._parts, None)
        return None if part is None else {"maps": part}


def _quantise(source: Path, frames: Floats, operations: Sequence[str]) -> dict[str, Path]:
    """INT8 models of `source` by method, weights per channel; `operations` of the static one."""
    prepared = source.with_suffix(".prepared.onnx")
    # Its shape inference does not know the batch axis.
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    dynamic, static = source.with_suffix(".dynamic.onnx"), source.with_suffix(".static.onnx")
    quantization.quantize_dynamic(prepared, dynamic, per_channel=True)
    # Quantising the scan's element-wise operations as well made it up to twice as slow.
    quantization.quantize_static(
        prepared,
        static,
        _Calibration(frames),
        quant_format=quantization.QuantFormat.QDQ,
        op_types_to_quantize=list(operations),
        activation_type=quantization.QuantType.QUInt8,
        per_channel=True,
    )
    return {"dynamic": dynamic, "static": static}

"""The report: `report.json` field by field. docs/verify.md says the same, and a test compares."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "SCHEMA_VERSION",
    "Accuracy",
    "Comparison",
    "Data",
    "Difference",
    "DifferenceMap",
    "Energy",
    "EngineRan",
    "Errors",
    "GroupEnergy",
    "Load",
    "Localised",
    "MapCell",
    "PackageRan",
    "Percentiles",
    "Place",
    "PoseErrors",
    "Problem",
    "Ran",
    "Report",
    "Speed",
    "SpeedRow",
    "Temperatures",
]

SCHEMA_VERSION: Literal[1] = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Place(_Part):
    """Where one frame's integers of one stage differ from the mirror's."""

    frame: int = Field(description="Number of the frame in its source.")
    stage: str = Field(description="Name in `Mirror.trace`: `output`, or that of a tapped stage.")
    index: int = Field(description="First integer that differs, from 0, token after token.")
    expected: int = Field(description="The mirror's integer there.")
    got: int = Field(description="The engine's integer there.")
    differing: int = Field(description="How many of the frame's integers differ.")


class Localised(Place):
    """The first stage that differs for a frame, by kernels that answer with one stage each."""

    stream: str = Field(description="The kernel's stream that holds it.")


class Difference(Place):
    """A frame whose answer is not the mirror's."""

    asked_again: str = Field(
        description="`same`, `right` or `other`: the answer to the frame alone, run once more; "
        "`failed` without one."
    )


class Problem(_Part):
    """Frames without an answer that can be compared."""

    first_frame: int = Field(description="Number of the first of them in its source.")
    frames: int = Field(description="How many.")
    reason: str = Field(description="Why they count as missing.")


class MapCell(_Part):
    """One square of the map of differences."""

    column: int = Field(description="Column, from 0.")
    output: int = Field(description="Output.")
    frames: int = Field(description="Frames of the column whose output differs.")


class DifferenceMap(_Part):
    """Where in frames and outputs the differences lie."""

    frames_per_column: int = Field(description="Frames that one column stands for.")
    columns: int = Field(description="Columns of the map.")
    outputs: int = Field(description="Rows of the map.")
    cells: list[MapCell] = Field(description="Squares that hold a difference.")


class Comparison(_Part):
    """The engine's integers against the mirror's, bit for bit."""

    frames: int = Field(description="Frames that were to be run.")
    compared: int = Field(description="Frames whose answers were compared.")
    mismatches: int = Field(description="Compared frames with at least one differing integer.")
    missing: int = Field(description="Frames without an answer that can be compared.")
    not_run: int = Field(description="Frames not reached, because the run stopped before.")
    retries: int = Field(description="Calls repeated because the engine could not answer.")
    first: list[Difference] = Field(description="The first five differing frames.")
    problems: list[Problem] = Field(description="The first five reasons for missing frames.")
    map: DifferenceMap | None = Field(
        description="Where differences lie; null without any, and for a tapped stage."
    )
    localised: list[Localised] = Field(
        description="The first stage that differs, for frames of `first`; empty if not looked for."
    )
    localise: str = Field(
        description="How to find the stage that differs; empty if none does, or all are found."
    )


class Errors(_Part):
    """Errors against the labels, per coordinate over all frames, averaged over coordinates."""

    mae_cm: float = Field(description="Mean absolute error, cm.")
    rmse_cm: float = Field(description="Root mean square error, cm.")


class PoseErrors(Errors):
    """`Errors` of all joints, and of parts."""

    frames: int = Field(description="Frames with labels.")
    per_axis: dict[str, Errors] = Field(description="By axis.")
    per_joint: dict[str, Errors] = Field(description="By joint.")
    per_subject: dict[str, Errors] = Field(description="By subject, where stated.")
    per_movement: dict[str, Errors] = Field(description="By movement, where stated.")


class Classes(_Part):
    """Images whose likeliest class is their label."""

    frames: int = Field(description="Images with labels.")
    accuracy: float = Field(description="Share that is classified right, 0..1.")
    calibration_error: float = Field(description="Expected calibration error, 0..1, of 15 bins.")
    per_class: dict[str, float] = Field(description="Accuracy by label.")


class Accuracy(_Part):
    """What the answers are worth in the data set's own metric."""

    engine: PoseErrors | Classes | None = Field(
        description="Of the engine's outputs; null if not measured."
    )
    mirror: PoseErrors | Classes | None = Field(
        description="Of the mirror's outputs; null if not measured."
    )
    reason: str = Field(description="Why something is not measured; empty if all is.")


class Percentiles(_Part):
    """Times of one stage over all calls, us a call."""

    p50: float = Field(description="Median, us.")
    p90: float = Field(description="90th percentile, us.")
    p99: float = Field(description="99th percentile, us.")
    max: float = Field(description="Longest, us.")


class SpeedRow(_Part):
    """One batch size, one call after the other."""

    batch: int = Field(description="Frames of a call.")
    calls: int = Field(description="Calls that were timed.")
    frames_per_s: float = Field(description="Frames answered a second of calls.")
    latency_us: dict[str, Percentiles] = Field(description="By stage; `total` is the whole call.")


class Speed(_Part):
    """Latency and throughput by batch size."""

    rows: list[SpeedRow] = Field(description="By batch size.")
    obtained: dict[str, str] = Field(description="How the times of each stage were obtained.")
    reason: str = Field(description="Why batch sizes are missing; empty if none is.")


class GroupEnergy(_Part):
    """One group of power rails."""

    idle_w: float = Field(description="Mean power without load, W.")
    idle_standard_error_w: float = Field(description="Its standard error, W.")
    loaded_w: float = Field(description="Mean power under load, W.")
    loaded_standard_error_w: float = Field(description="Its standard error, W.")
    samples: int = Field(description="Samples under load.")
    energy_mj: float = Field(description="Energy of one inference above idle, mJ.")
    standard_uncertainty_mj: float = Field(description="Its standard uncertainty, mJ.")


class Load(_Part):
    """What ran while power was measured."""

    batch: int = Field(description="Frames of a call.")
    frames: int = Field(description="Frames answered.")
    frames_per_s: float = Field(description="Frames answered a second.")


class Energy(_Part):
    """Energy of an inference: power under load less idle power, by the frames a second."""

    groups: dict[str, GroupEnergy] = Field(description="By group of rails; empty if not measured.")
    window_s: float = Field(description="Length of each of the two windows, s.")
    load: Load | None = Field(description="The load; null if not measured.")
    reason: str = Field(description="Why it is not measured; empty if it is.")


class Temperatures(_Part):
    """Temperatures by sensor, degrees Celsius; absent where there is no sensor."""

    start: dict[str, float] = Field(description="Before the first frame.")
    end: dict[str, float] = Field(description="After the last measurement.")


class PackageRan(_Part):
    """The package."""

    name: str = Field(description="Its name.")
    version: str = Field(description="Its version.")
    sha256: str = Field(description="SHA-256 of its model.json, which holds that of the weights.")
    config_hash: str = Field(description="Config hash, which a bitstream must match.")


class EngineRan(_Part):
    """The engine under test."""

    name: str = Field(description="Its name.")
    description: str = Field(description="Where it computes.")
    state: str = Field(description="How it fared at the end.")
    reason: str = Field(description="Why it was not ready then; empty if it was.")
    options: dict[str, str] = Field(
        description="What else decides a board or its emulator: overlay, preset, injected faults."
    )
    faults: dict[str, int] = Field(
        description="Faults that the engine noticed, by kind: of transfers, not of its integers."
    )


class Data(_Part):
    """The frames."""

    source: str = Field(description="Golden vectors, or which data.")
    origin: str = Field(description="How the features came about.")
    sha256: dict[str, str] = Field(description="SHA-256 of each file read.")
    batch_sha256: str = Field(description="SHA-256 of the int8 frames as they were run.")


class Ran(_Part):
    """What ran, where and when."""

    package: PackageRan = Field(description="The package.")
    engine: EngineRan = Field(description="The engine under test.")
    data: Data = Field(description="The frames.")
    batch: int = Field(description="Frames of a call of the comparison.")
    versions: dict[str, str] = Field(description="Of emamba, emamba-service, numpy and Python.")
    host: dict[str, str] = Field(description="Platform, machine and processors.")
    started: str = Field(description="UTC time of the first frame's start.")
    ended: str = Field(description="UTC time of the end.")
    resumed_frames: int = Field(description="Frames taken over from interrupted starts.")


class Report(_Part):
    """A verification's report."""

    schema_version: Literal[1] = Field(description="Version of this schema.")
    verdict: Literal["equal", "different", "incomplete"] = Field(description="The verdict.")
    exit_code: Literal[0, 1, 3] = Field(description="Exit code of the command.")
    summary: str = Field(description="The verdict in a sentence.")
    comparison: Comparison = Field(description="Bits.")
    accuracy: Accuracy = Field(description="Errors against labels.")
    speed: Speed = Field(description="Latency and throughput.")
    energy: Energy = Field(description="Energy of an inference.")
    temperatures_c: Temperatures = Field(description="Temperatures.")
    ran: Ran = Field(description="What ran.")
    obtained: dict[str, str] = Field(description="How the figures of each part were obtained.")

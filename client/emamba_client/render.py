"""How results look on a terminal and in a pipe, within 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from emamba_client.results import Joint, ModelInfo, Pose, PoseResult, PosesResult

AnyResult = PoseResult | PosesResult


def print_poses(console: Console, result: AnyResult) -> None:
    """Print who answered, and a table of joints in metres for each frame."""
    poses = result.poses if isinstance(result, PosesResult) else (result.pose,)
    total_us = result.timing_us.get("total")
    took = "" if total_us is None else f", {total_us:.0f} us in the service"
    print_plain(console, f"model {result.model} {result.version} on {result.engine}{took}")
    if result.engine_stages_us:
        stages = ", ".join(f"{name} {us:.0f}" for name, us in result.engine_stages_us.items())
        print_plain(console, f"in the engine: {stages} us")
    for index, pose in enumerate(poses):
        if len(poses) > 1:
            print_plain(console, f"frame {index + 1} of {len(poses)}")
        console.print(_pose_table(pose))


def print_models(console: Console, models: Sequence[ModelInfo]) -> None:
    """Print one row per model."""
    table = _table()
    for name in ("model", "version", "engine"):
        table.add_column(name, overflow="fold")
    table.add_column("parameters", justify="right")
    table.add_column("INT8 bytes", justify="right")
    table.add_column("package SHA-256")
    for model in models:
        numbers = (str(model.parameters), str(model.int8_bytes), model.package_sha256[:12])
        table.add_row(model.name, model.version, model.engine, *numbers)
    console.print(table)


def print_plain(console: Console, text: str) -> None:
    """Print a line as it is, however long: nothing in it is markup."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _pose_table(pose: Pose) -> Table:
    table = _table()
    table.add_column("joint")
    for axis in ("x m", "y m", "z m"):
        table.add_column(axis, justify="right", min_width=7)
    for joint in pose.joints:
        table.add_row(joint.name, *_metres(joint, 3))
    return table


def _metres(joint: Joint, digits: int) -> list[str]:
    """Return x, y and z as text; adding 0.0 turns a rounded -0.0 into 0.0."""
    values = (joint.x_m, joint.y_m, joint.z_m)
    return [f"{round(value, digits) + 0.0:.{digits}f}" for value in values]

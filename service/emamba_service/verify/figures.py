"""How figures are written, on the terminal and on the page alike."""

from __future__ import annotations

from emamba_service.verify.schema import GroupEnergy, Place, Report

__all__ = [
    "ASKED_AGAIN",
    "TITLES",
    "celsius",
    "centimetres",
    "energy_mj",
    "facts",
    "micros",
    "per_second",
    "place_numbers",
    "utc",
    "watts",
    "whose_speed",
]

TITLES = {
    "equal": "Equal",
    "different": "Different",
    "incomplete": "Incomplete",
}
ASKED_AGAIN = {
    "same": "the same again",
    "right": "right this time",
    "other": "another answer",
    "failed": "no answer",
}


def micros(value: float) -> str:
    """Microseconds, without the unit."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def per_second(value: float) -> str:
    """Frames a second, without the unit."""
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def centimetres(value: float) -> str:
    """Centimetres, without the unit."""
    return f"{value:.2f}"


def celsius(value: float | None) -> str:
    """Degrees Celsius, without the unit; a dash where there is none."""
    return "–" if value is None else f"{value:.1f}"  # noqa: RUF001


def watts(mean: float, error: float) -> str:
    """W with its standard error, without the unit."""
    return f"{mean:.4f} ± {error:.5f}"


def energy_mj(group: GroupEnergy) -> str:
    """mJ with its standard uncertainty, without the unit; says where it cannot be told from 0."""
    text = f"{group.energy_mj:.5f} ± {group.standard_uncertainty_mj:.5f}"
    seen = abs(group.energy_mj) > 2 * group.standard_uncertainty_mj
    return text if seen else f"{text} (not told from 0)"


def place_numbers(place: Place) -> tuple[str, ...]:
    """Frame, index, expected, got and how many differ."""
    numbers = (place.frame, place.index, place.expected, place.got, place.differing)
    return tuple(map(str, numbers))


def utc(moment: str) -> str:
    """A time of the report for people."""
    return moment.replace("T", " ").replace("+00:00", " UTC")


def whose_speed(report: Report) -> str:
    """What follows a rate or latency that is not of what the engine stands for; empty if it is."""
    return ", emulated, on this CPU" if report.ran.engine.name == "emulator" else ""


def facts(report: Report, hash_digits: int = 64) -> list[tuple[str, str]]:
    """What ran, line by line; of hashes the first `hash_digits`."""

    def hashed(digest: str) -> str:
        return digest if hash_digits >= len(digest) else f"{digest[:hash_digits]}…"

    ran = report.ran
    engine = f"{ran.engine.name}: {ran.engine.description}"
    state = ran.engine.state + (f": {ran.engine.reason}" if ran.engine.reason else "")
    lines = [
        ("engine", engine),
        ("engine at the end", state),
        ("faults noticed", ", ".join(f"{kind} {n:,}" for kind, n in ran.engine.faults.items())),
        (
            "package",
            f"{ran.package.name}/{ran.package.version}, sha256 {hashed(ran.package.sha256)}",
        ),
        ("config hash", hashed(ran.package.config_hash)),
        *(
            (name.replace("_", " "), hashed(value) if name.endswith("sha256") else value)
            for name, value in ran.engine.options.items()
        ),
        ("frames", f"{ran.data.source}, {ran.data.origin}; {ran.batch} in a call"),
        ("frames sha256", hashed(ran.data.batch_sha256)),
        *((f"{name} sha256", hashed(digest)) for name, digest in ran.data.sha256.items()),
        ("versions", ", ".join(f"{name} {version}" for name, version in ran.versions.items())),
        ("host", f"{ran.host['platform']}, {ran.host['processors']} processors"),
        ("from", utc(ran.started)),
        ("to", utc(ran.ended)),
        ("resumed", f"{ran.resumed_frames:,} frames were compared by an interrupted start"),
    ]
    absent = {"resumed": not ran.resumed_frames, "faults noticed": not ran.engine.faults}
    return [line for line in lines if not absent.get(line[0])]

"""Every setting of the service, declared once.

The fields below feed the environment (`EMAMBA_PORT`), the command line (`--port`) and the table
in docs/service.md. A unit, where there is one, is part of the name.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from emamba_service.emulator import KINDS, parse
from emamba_service.telemetry.sampler import LEAST_INTERVAL_S

__all__ = [
    "Settings",
    "SettingsError",
    "default_text",
    "env_name",
    "load_settings",
    "misspelt",
    "option_name",
]

LogLevel = Literal["critical", "error", "warning", "info", "debug"]
EngineName = Literal["auto", "native", "mirror", "board", "emulator"]
Guard = Literal["every", "canary", "none"]
Preset = Literal["fast", "small"]
Fallback = Literal["native", "none"]
LogFormat = Literal["text", "json"]


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line that names it."""


class Settings(BaseSettings):
    """The settings, from arguments first, then the environment, then the defaults."""

    model_config = SettingsConfigDict(env_prefix="EMAMBA_", env_ignore_empty=True, frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    engine: EngineName = Field(
        "auto",
        description="Engine that computes the models: native, mirror, board or emulator; "
        "auto takes native where it opens, mirror otherwise.",
    )
    models: Path = Field(
        Path("models"), description="Folder of packages, <name>/<version>/model.json."
    )
    default_model: str = Field("mars", description="Model of a request that names none.")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1, description="Largest request body.")
    max_header_bytes: int = Field(
        16 * 1024, ge=256, description="Largest request line and headers together."
    )
    max_points: int = Field(4096, ge=1, description="Most points in one frame.")
    max_frames: int = Field(256, ge=1, description="Most frames in one request.")
    max_image_pixels: int = Field(
        4 * 1024 * 1024,
        ge=1,
        le=100_000_000,
        description="Most pixels of one request's images together, before they are read.",
    )
    max_connections: int = Field(
        1024, ge=1, le=65536, description="Open connections; more are answered 503 and closed."
    )
    max_batch: int = Field(
        64, ge=1, le=4096, description="Most frames of several requests that are computed together."
    )
    batch_delay_s: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Longest wait of a request for others to be computed with it; with 0, those "
        "that came while the engine was busy go together.",
    )
    max_queue: int = Field(
        64,
        ge=1,
        le=65536,
        description="Requests that may wait for an engine; more are answered 503.",
    )
    max_streams: int = Field(
        64, ge=0, le=4096, description="Open or resumable WebSocket streams; more are answered 503."
    )
    max_viewers: int = Field(
        256, ge=0, le=65536, description="Viewers of published streams; more are answered 503."
    )
    max_message_bytes: int = Field(256 * 1024, ge=1024, description="Largest WebSocket message.")
    stream_window: int = Field(
        64,
        ge=1,
        le=4096,
        description="Frames of a stream that may be unanswered, and answers that "
        "may be unacknowledged.",
    )
    stream_resume_s: float = Field(
        30.0,
        ge=0,
        le=3600,
        description="How long a stream whose connection is lost can be resumed.",
    )
    stream_heartbeat_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Time between pings of a WebSocket; a peer that does not "
        "answer one before the next is gone.",
    )
    read_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="Longest time for a request's headers and body to arrive."
    )
    request_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="Longest time from a read request to its answer."
    )
    drain_timeout_s: int = Field(
        10, ge=0, le=3600, description="Longest time open requests get when the service stops."
    )
    log_level: LogLevel = Field(
        "info", description="Least severe message logged; debug also logs every request."
    )
    log_format: LogFormat = Field(
        "text", description="How messages are logged: text, or json, one object a line."
    )
    trace_endpoint: str = Field(
        "",
        description="OpenTelemetry collector that spans are sent to, an OTLP/HTTP URL "
        "(docs/operations.md).",
    )
    tokens: Path | None = Field(
        None,
        description="File of bearer tokens; without it everyone may infer and nobody may "
        "load models (docs/operations.md).",
    )
    tls_certificate: Path | None = Field(
        None, description="Certificate chain, PEM; with tls_key, the service speaks HTTPS."
    )
    tls_key: Path | None = Field(None, description="Private key of the certificate, PEM.")
    trusted_proxies: str = Field(
        "", description="Addresses, comma-separated, of proxies whose X-Forwarded-For is believed."
    )
    engine_process: bool = Field(
        True,
        description="Whether engines run in a process of their own, so that neither a crash "
        "nor a hang of one is the service's.",
    )
    engine_timeout_s: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Longest wait for an engine; then its process is ended and started anew.",
    )
    overlay: Path | None = Field(
        None, description="Folder of the overlay: bitstream, hand-off and manifest.json."
    )
    guard: Guard = Field(
        "every",
        description="What checks each answer of a board or emulator before it leaves: every, "
        "canary or none (docs/emulator.md).",
    )
    fallback: Fallback = Field(
        "native",
        description="Who answers once a board is beyond recovery: native, or none, which is 503.",
    )
    transfer_frames: int = Field(
        256, ge=1, le=4096, description="Most frames of one transfer to a board."
    )
    transfer_timeout_s: float = Field(
        0.5, gt=0, le=3600, description="Longest wait for one transfer."
    )
    board_lock: Path = Field(
        Path("/run/lock/emamba-board.lock"),
        description="File whose lock makes this process the only one to drive the board.",
    )
    emulator_preset: Preset = Field(
        "fast", description="Folding of the emulated kernel: fast or small."
    )
    emulator_faults: str = Field(
        "",
        description="Faults that the emulator makes, comma-separated kind:rate or kind@after "
        "(docs/emulator.md).",
        json_schema_extra={
            "must_be": "comma-separated kind:rate, kind@after or kind:rate@after with a rate above "
            f"0 and at most 1, after a whole number, and kind one of {', '.join(KINDS)}"
        },
    )
    sysfs: Path = Field(
        Path("/sys"), description="Where power rails and temperatures are read from."
    )
    power_interval_s: float = Field(
        0.2,
        ge=0,
        le=3600,
        description="Time between readings of power and temperature, at least 0.05; 0 for none.",
        json_schema_extra={"must_be": "0 or a finite number in 0.05..3600"},
    )
    shadow_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of requests computed again by the mirror, off their path; 0 for none.",
    )
    shadow_folder: Path | None = Field(
        None,
        description="Folder of the mismatches that shadow checks find; emamba/shadow in the user's "
        "folder of states unless given.",
    )
    shadow_trips_ready: bool = Field(
        False, description="Whether a mismatch ends readiness until the service is started anew."
    )

    @field_validator("emulator_faults")
    @classmethod
    def _known_faults(cls, value: str) -> str:
        parse(value)
        return value

    @field_validator("power_interval_s")
    @classmethod
    def _independent_readings(cls, value: float) -> float:
        if 0 < value < LEAST_INTERVAL_S:
            raise ValueError
        return value


def env_name(setting: str) -> str:
    """The environment variable of a setting."""
    return f"EMAMBA_{setting.upper()}"


def option_name(setting: str) -> str:
    """The command line option of a setting."""
    return f"--{setting.replace('_', '-')}"


def default_text(setting: str) -> str:
    """The default of a setting as help and docs show it."""
    default = Settings.model_fields[setting].default
    if isinstance(default, bool):
        return str(default).lower()
    return "not set" if default in (None, "") else str(default)


def load_settings(given: dict[str, str]) -> Settings:
    """Settings from `given` texts and the environment; raises `SettingsError`."""
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError("; ".join(map(_complaint, error.errors()))) from error


def misspelt(variables: Iterable[str]) -> list[str]:
    """One sentence for each environment variable that looks like a setting's and is none.

    Only what resembles one: platforms set variables of their own after a service's name.
    """
    known = [env_name(name) for name in Settings.model_fields]
    return [
        f"{variable} is no setting and does nothing; {meant} is one"
        for variable in sorted(set(variables) - set(known))
        if variable.startswith(env_name(""))
        for meant in get_close_matches(variable, known, n=1, cutoff=0.85)
    ]


def _complaint(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    must = _requirement(Settings.model_json_schema()["properties"][name])
    return f"{option_name(name)} ({env_name(name)}): must be {must}, but is {error['input']!r}"


def _requirement(schema: dict[str, Any]) -> str:
    """What the JSON schema of a setting asks for, in words."""
    if "must_be" in schema:
        return str(schema["must_be"])
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "boolean":
        return "true or false"
    if schema["type"] == "string":
        return "text of at least 1 character"
    kind = "an integer" if schema["type"] == "integer" else "a finite number"
    if {"minimum", "maximum"} <= schema.keys():
        return f"{kind} in {schema['minimum']}..{schema['maximum']}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<="}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return f"{kind} {' and '.join(bounds)}"

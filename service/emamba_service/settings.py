"""Every setting of the service, declared once.

The fields below feed the environment (`EMAMBA_PORT`), the command line (`--port`) and the table
in docs/service.md. A unit, where there is one, is part of the name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings", "SettingsError", "env_name", "load_settings", "option_name"]

LogLevel = Literal["critical", "error", "warning", "info", "debug"]


class SettingsError(Exception):
    """A setting that cannot be used; the message is one line that names it."""


class Settings(BaseSettings):
    """The settings, from arguments first, then the environment, then the defaults."""

    model_config = SettingsConfigDict(env_prefix="EMAMBA_", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one.")
    engine: str = Field(
        "auto", description="Engine that computes the models; auto takes the first that opens."
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
    threads: int = Field(2, ge=1, le=256, description="Requests computed at the same time.")
    max_queue: int = Field(
        64, ge=0, description="Requests that may wait for a thread; more are answered 503."
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


def env_name(setting: str) -> str:
    """The environment variable of a setting."""
    return f"EMAMBA_{setting.upper()}"


def option_name(setting: str) -> str:
    """The command line option of a setting."""
    return f"--{setting.replace('_', '-')}"


def load_settings(given: dict[str, str]) -> Settings:
    """Settings from `given` texts and the environment; raises `SettingsError`."""
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        raise SettingsError("; ".join(map(_complaint, error.errors()))) from error


def _complaint(error: ErrorDetails) -> str:
    name = str(error["loc"][0])
    must = _requirement(Settings.model_json_schema()["properties"][name])
    return f"{option_name(name)} ({env_name(name)}): must be {must}, but is {error['input']!r}"


def _requirement(schema: dict[str, Any]) -> str:
    """What the JSON schema of a setting asks for, in words."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "string":
        return "text of at least 1 character"
    kind = "an integer" if schema["type"] == "integer" else "a finite number"
    if {"minimum", "maximum"} <= schema.keys():
        return f"{kind} in {schema['minimum']}..{schema['maximum']}"
    signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<="}
    bounds = [f"{sign} {schema[key]:g}" for key, sign in signs.items() if key in schema]
    return f"{kind} {' and '.join(bounds)}"

"""Bearer tokens: who may infer, who may load models, and how often.

A token is 256 random bits, so that its SHA-256 says nothing about it: nobody can try them all, and
a slow hash as for passwords would only slow requests. The file holds hashes alone, and a hash of
anything that has not the form of a made token is of no use: such a token is refused before it is
hashed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from emamba_service.errors import ForbiddenError, RateLimitedError, UnauthorizedError
from emamba_service.settings import SettingsError

__all__ = ["SCOPES", "Scope", "Token", "Tokens", "new_token", "read_tokens", "write_tokens"]

Scope = Literal["infer", "admin"]
SCOPES: tuple[Scope, ...] = ("infer", "admin")
_log = logging.getLogger(__name__)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH = re.compile(r"[0-9a-f]{64}")
_BEARER = re.compile(r"[Bb]earer +(emt_[A-Za-z0-9_-]{43})")
_MAX_FILE_BYTES = 1024 * 1024
# Each request is compared with all of them.
_MAX_TOKENS = 256
_RATES = (1e-3, 1e6)
# Between looks at the file, whose change takes effect without a new start.
_LOOK_S = 1.0


@dataclass(frozen=True)
class Token:
    """A token's name, hash and rights. `requests_per_s` of None is no limit; a client may send as
    many requests at once as it may in a second."""

    name: str
    sha256: str
    scopes: tuple[Scope, ...]
    requests_per_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry in the file."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "scopes": list(self.scopes),
            "requests_per_s": self.requests_per_s,
        }


class _Bucket:
    """Tokens of a token bucket: `rate` a second, at most as many as come in one, at least one."""

    def __init__(self, rate: float, now_s: float) -> None:
        self._rate = rate
        self._room = max(1.0, rate)
        self._left = self._room
        self._at_s = now_s

    def take(self, now_s: float) -> float:
        """0 if a request is allowed now, else the seconds until one is."""
        self._left = min(self._room, self._left + (now_s - self._at_s) * self._rate)
        self._at_s = now_s
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


class Tokens:
    """The tokens of a file, read anew when it changes. Of one thread.

    A file that cannot be read any more is logged, and the tokens of before stay. `clock` gives
    monotonic seconds.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises `SettingsError` where the file cannot be used."""
        self._path = path
        self._clock = clock
        self._looked_s = clock()
        self._state = _state_of(path)
        self._tokens: list[tuple[bytes, Token]] = []
        self._buckets: dict[str, _Bucket] = {}
        self._hold(read_tokens(path))

    def admit(self, authorization: str | None, scope: Scope) -> str:
        """The name of the token in the header `Authorization`, if it may do `scope`.

        Raises `UnauthorizedError`, `ForbiddenError` or `RateLimitedError`.
        """
        now_s = self._clock()
        if now_s - self._looked_s >= _LOOK_S:
            self._look(now_s)
        token = self._find(authorization)
        if scope not in token.scopes:
            raise ForbiddenError(
                f"token {token.name!r} must have the scope {scope}, "
                f"but has {' and '.join(token.scopes)}"
            )
        if token.requests_per_s is not None:
            self._check_rate(token, token.requests_per_s, now_s)
        return token.name

    def _find(self, authorization: str | None) -> Token:
        if authorization is None:
            raise UnauthorizedError(UnauthorizedError.example)
        match = _BEARER.fullmatch(authorization.strip())
        if match is None:
            raise UnauthorizedError(
                "Authorization must be Bearer and a token of this service, but is of another form"
            )
        digest = hashlib.sha256(match[1].encode()).digest()
        found = None
        # All of them, each in constant time: how long it takes tells nothing about any.
        for known, token in self._tokens:
            if hmac.compare_digest(known, digest):
                found = token
        if found is None:
            raise UnauthorizedError(
                "Authorization must be Bearer and a token of this service, but this one is unknown"
            )
        return found

    def _check_rate(self, token: Token, rate: float, now_s: float) -> None:
        bucket = self._buckets.get(token.sha256)
        if bucket is None:
            bucket = self._buckets[token.sha256] = _Bucket(rate, now_s)
        wait_s = bucket.take(now_s)
        if wait_s:
            seconds = max(1, -int(-wait_s // 1))
            error = RateLimitedError(
                f"token {token.name!r} may send {rate:g} requests/s; try again after {seconds} s",
                limit=rate,
            )
            error.headers = {"retry-after": str(seconds)}
            raise error

    def _look(self, now_s: float) -> None:
        self._looked_s = now_s
        state = _state_of(self._path)
        if state == self._state:
            return
        self._state = state
        try:
            tokens = read_tokens(self._path)
        except SettingsError as error:
            _log.error("%s; the tokens of before stay in force", error)
            return
        self._hold(tokens)
        _log.info("%d tokens have been read anew from %s", len(tokens), self._path)

    def _hold(self, tokens: list[Token]) -> None:
        self._tokens = [(bytes.fromhex(token.sha256), token) for token in tokens]
        kept = {token.sha256 for token in tokens}
        self._buckets = {key: self._buckets[key] for key in self._buckets.keys() & kept}


def new_token(
    name: str, scopes: tuple[Scope, ...], requests_per_s: float | None = None
) -> tuple[str, Token]:
    """A new secret, and the token to keep of it; raises `SettingsError` for a name or rate that
    cannot be."""
    secret = f"emt_{secrets.token_urlsafe(32)}"
    made = Token(name, hashlib.sha256(secret.encode()).hexdigest(), scopes, requests_per_s)
    return secret, _token("the new token", made.to_json())


def read_tokens(path: Path) -> list[Token]:
    """The tokens in a file; raises `SettingsError`, which says what is wrong with it."""
    try:
        entries = json.loads(_read_private(path))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: must be JSON, but is not: {error}") from error
    if not isinstance(entries, list) or len(entries) > _MAX_TOKENS:
        raise SettingsError(f"{path}: must be an array of at most {_MAX_TOKENS} tokens")
    tokens = [_token(f"{path}: token {index}", entry) for index, entry in enumerate(entries)]
    for what, values in (
        ("name", [token.name for token in tokens]),
        ("sha256", [token.sha256 for token in tokens]),
    ):
        if twice := next((value for value in values if values.count(value) > 1), None):
            raise SettingsError(f"{path}: each {what} must be there once, but {twice!r} is twice")
    return tokens


def write_tokens(path: Path, tokens: list[Token]) -> None:
    """Replace the file as a whole, readable for its owner alone, who stays; raises `OSError`."""
    path = path.resolve()
    text = json.dumps([token.to_json() for token in tokens], indent=1) + "\n"
    handle, beside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            if path.exists():
                # Else a service that is not root's could not read what root has changed.
                owner = path.stat()
                os.fchown(handle, owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _read_private(path: Path) -> bytes:
    """The bytes of a file that is its owner's alone; raises `SettingsError`."""
    try:
        # A pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise SettingsError(f"{path}: must be a file of tokens, but is none")
            raw = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: tokens cannot be read: {error.strerror}") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsError(
            f"{path}: must be for its owner alone, but has mode {stat.S_IMODE(mode):03o}; "
            f"run chmod 600 {path}"
        )
    if len(raw) > _MAX_FILE_BYTES:
        raise SettingsError(f"{path}: must be at most {_MAX_FILE_BYTES} bytes, but is more")
    return raw


def _token(where: str, entry: Any) -> Token:
    if not isinstance(entry, Mapping) or not {"name", "sha256", "scopes"} <= entry.keys():
        raise SettingsError(f"{where} must be an object with name, sha256 and scopes")
    if unknown := sorted(entry.keys() - {"name", "sha256", "scopes", "requests_per_s"}):
        raise SettingsError(f"{where} must have no other key, but has {unknown[0]!r}")
    name, digest, scopes = entry["name"], entry["sha256"], entry["scopes"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SettingsError(f"{where}: name must match {_NAME.pattern}, but is {name!r}")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise SettingsError(
            f"{where}: sha256 must be 64 hexadecimal digits of a token that "
            "`emamba-service token new` has made"
        )
    if not isinstance(scopes, list) or not scopes or not all(scope in SCOPES for scope in scopes):
        raise SettingsError(
            f"{where}: scopes must be some of {', '.join(SCOPES)}, but are {scopes!r}"
        )
    rate = entry.get("requests_per_s")
    numeric = isinstance(rate, (int, float)) and not isinstance(rate, bool)
    if rate is not None and not (numeric and _RATES[0] <= rate <= _RATES[1]):
        raise SettingsError(
            f"{where}: requests_per_s must be null or in {_RATES[0]:g}..{_RATES[1]:g}, "
            f"but is {rate!r}"
        )
    return Token(name, digest, tuple(dict.fromkeys(scopes)), rate)


def _state_of(path: Path) -> tuple[int, int, int] | None:
    """What changes whenever the file, its mode included, does; None where there is no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ctime_ns, found.st_size, found.st_ino

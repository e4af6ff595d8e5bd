"""TLS as the settings ask for it."""

from __future__ import annotations

import ssl
import stat
from typing import Any

import uvloop

from emamba_service.settings import Settings, SettingsError

__all__ = ["HandshakeLoop", "ssl_options"]


class HandshakeLoop(uvloop.Loop):
    """A loop whose servers give a client `timeout_s` for the TLS handshake.

    uvicorn does not set it, and the 60 s that it is otherwise come before any limit of the
    protocol's own: neither are such connections counted, nor are they closed when they are silent.
    """

    def __init__(self, timeout_s: float) -> None:
        super().__init__()
        self._timeout_s = timeout_s

    async def create_server(self, *args: Any, ssl: Any = None, **options: Any) -> Any:
        if ssl is not None:
            options["ssl_handshake_timeout"] = self._timeout_s
        return await super().create_server(*args, ssl=ssl, **options)


def ssl_options(settings: Settings) -> dict[str, Any]:
    """uvicorn's options for TLS 1.2 or later; none where the settings name no certificate.

    Raises `SettingsError` where certificate and key cannot be used.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return {}
    if certificate is None or key is None:
        given, lacks = ("tls-key", "tls-certificate")
        if key is None:
            given, lacks = lacks, given
        raise SettingsError(f"--{given} must come with --{lacks}, but comes alone")
    for option, path in (("tls-certificate", certificate), ("tls-key", key)):
        try:
            path.open("rb").close()
        except OSError as error:
            raise SettingsError(f"--{option}: {path} cannot be read: {error.strerror}") from error
    if (mode := stat.S_IMODE(key.stat().st_mode)) & stat.S_IRWXO:
        raise SettingsError(
            f"--tls-key: {key} must not be open to everyone, but has mode {mode:03o}; "
            f"run chmod 600 {key}"
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password nobody is asked for one.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (ssl.SSLError, OSError) as error:
        raise SettingsError(
            f"--tls-certificate and --tls-key must be a PEM certificate chain and its unencrypted "
            f"key, but {certificate} and {key} are not: {error}"
        ) from error
    return {"ssl_context_factory": lambda _config, _default: context}

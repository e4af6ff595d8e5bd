"""HTTPS by settings."""

from __future__ import annotations

import shutil
import signal
import ssl
import subprocess
import warnings
from pathlib import Path

import httpx
import pytest

from emamba_service.settings import Settings, SettingsError
from emamba_service.tls import ssl_options
from service.test_live import finish, start


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=board"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_live_service_speaks_https_of_today_alone(pair, models_dir, points):
    certificate, key = pair
    live = start(models_dir, tls_certificate=certificate, tls_key=key)
    try:
        assert live.url.startswith("https://")
        trust = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=trust) as client:
            assert client.post(f"{live.url}/v1/pose", json={"points": points}).status_code == 200
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{live.url}/health/live")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{live.url.replace('https', 'http')}/health/live")
        assert live.stop(signal.SIGTERM) == 0
    finally:
        finish(live)


def test_older_tls_is_refused(pair, models_dir):
    live = start(models_dir, tls_certificate=pair[0], tls_key=pair[1])

    def speaks(version: ssl.TLSVersion) -> bool:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        # Else this side would refuse older versions itself.
        context.set_ciphers("ALL:@SECLEVEL=0")
        with live.connect() as connection:
            try:
                context.wrap_socket(connection).close()
            except (ssl.SSLError, ConnectionError):
                return False
            return True

    try:
        versions = ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
        assert [speaks(version) for version in versions] == [False, True, True]
    finally:
        finish(live)


def test_limits_of_a_head_hold_over_tls(pair, models_dir):
    live = start(models_dir, tls_certificate=pair[0], tls_key=pair[1])
    trust = ssl.create_default_context(cafile=str(pair[0]))
    try:
        for sent, status in ((b"GET / HTTP/1.1\r\n", 408), (b"GET / HTTP/1.1\r\nx: ", 431)):
            with trust.wrap_socket(live.connect(), server_hostname="127.0.0.1") as connection:
                connection.sendall(sent + b"y" * (9000 if status == 431 else 0))
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert answer.startswith(b"HTTP/1.1 %d " % status)
            assert b"content-type: application/problem+json" in answer
    finally:
        finish(live)


def test_key_that_everyone_can_read_is_refused(pair, tmp_path):
    certificate, key = pair
    open_key = tmp_path / "key.pem"
    open_key.write_bytes(key.read_bytes())
    open_key.chmod(0o644)
    with pytest.raises(SettingsError) as refused:
        ssl_options(Settings(tls_certificate=certificate, tls_key=open_key))
    assert str(refused.value) == (
        f"--tls-key: {open_key} must not be open to everyone, but has mode 644; "
        f"run chmod 600 {open_key}"
    )


def test_no_certificate_means_plain_http():
    assert ssl_options(Settings()) == {}


def test_certificate_and_key_come_together(pair):
    certificate, key = pair
    with pytest.raises(SettingsError, match="--tls-certificate must come with --tls-key"):
        ssl_options(Settings(tls_certificate=certificate))
    with pytest.raises(SettingsError, match="--tls-key must come with --tls-certificate"):
        ssl_options(Settings(tls_key=key))


def test_files_that_cannot_be_used_are_named(pair, tmp_path):
    certificate, key = pair
    with pytest.raises(SettingsError, match=r"--tls-key: .*none cannot be read: No such file"):
        ssl_options(Settings(tls_certificate=certificate, tls_key=tmp_path / "none"))
    with pytest.raises(SettingsError, match="must be a PEM certificate chain and its unencrypted"):
        ssl_options(Settings(tls_certificate=key, tls_key=key))


def test_handshake_that_does_not_come_is_not_waited_for(pair, models_dir):
    live = start(models_dir, tls_certificate=pair[0], tls_key=pair[1])
    try:
        # Its time-out is 10 s; without the limit of 1 s the service would wait for 60 s.
        with live.connect() as connection:
            assert connection.recv(1) == b""
    finally:
        finish(live)

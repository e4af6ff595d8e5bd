"""HTTPS by settings."""

from __future__ import annotations

import shutil
import ssl
import subprocess
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
        assert live.stop(15) == 0
    finally:
        finish(live)


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
        ssl_options(Settings(tls_certificate=key, tls_key=certificate))

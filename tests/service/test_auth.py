"""Bearer tokens: the file, the checks, the rate, the command."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clocks import Clock
from emamba_service.app import create_app
from emamba_service.auth import Token, Tokens, new_token, read_tokens, write_tokens
from emamba_service.cli import cli
from emamba_service.errors import ForbiddenError, RateLimitedError, UnauthorizedError
from emamba_service.settings import SettingsError


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def camera(tmp_path) -> tuple[Path, str]:
    """A file with a token that may infer twice a second, and the token."""
    secret, token = new_token("camera", ("infer",), 2)
    write_tokens(tmp_path / "tokens.json", [token])
    return tmp_path / "tokens.json", secret


def test_file_holds_no_token_and_is_its_owners_alone(camera):
    path, secret = camera
    assert secret.startswith("emt_")
    assert secret not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    (token,) = read_tokens(path)
    assert (token.name, token.scopes, token.requests_per_s) == ("camera", ("infer",), 2)


def test_known_token_is_admitted_to_its_scope_alone(camera, clock):
    path, secret = camera
    tokens = Tokens(path, clock)
    assert tokens.admit(f"Bearer {secret}", "infer") == "camera"
    assert tokens.admit(f"bearer  {secret} ", "infer") == "camera"
    with pytest.raises(ForbiddenError) as refused:
        tokens.admit(f"Bearer {secret}", "admin")
    assert str(refused.value) == "token 'camera' must have the scope admin, but has infer"


@pytest.mark.parametrize(
    ("header", "but"),
    [
        (None, "but is absent"),
        ("", "but is of another form"),
        ("Basic dXNlcjpwdw==", "but is of another form"),
        ("Bearer emt_short", "but is of another form"),
        (f"Bearer emt_{'A' * 43}", "but this one is unknown"),
    ],
)
def test_other_tokens_are_refused_and_not_repeated(camera, clock, header, but):
    with pytest.raises(UnauthorizedError) as refused:
        Tokens(camera[0], clock).admit(header, "infer")
    must = "Authorization must be Bearer and a token of this service, "
    assert str(refused.value) == must + but
    assert refused.value.headers == {"www-authenticate": "Bearer"}


@given(st.text(max_size=60))
def test_no_other_text_is_a_token(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    _, token = new_token("a", ("infer",))
    write_tokens(folder / "any.json", [token])
    with pytest.raises(UnauthorizedError):
        Tokens(folder / "any.json").admit(text, "infer")


def test_rate_is_kept_and_room_comes_back(camera, clock):
    path, secret = camera
    tokens = Tokens(path, clock)
    header = f"Bearer {secret}"
    for _ in range(2):
        tokens.admit(header, "infer")
    with pytest.raises(RateLimitedError) as refused:
        tokens.admit(header, "infer")
    assert str(refused.value) == "token 'camera' may send 2 requests/s; try again after 1 s"
    assert refused.value.headers == {"retry-after": "1"}
    clock.now_s += 0.5
    tokens.admit(header, "infer")
    clock.now_s += 60
    for _ in range(2):
        tokens.admit(header, "infer")
    with pytest.raises(RateLimitedError):
        tokens.admit(header, "infer")


def test_slow_rate_says_how_long_to_wait(tmp_path, clock):
    secret, token = new_token("slow", ("infer",), 0.1)
    write_tokens(tmp_path / "tokens.json", [token])
    tokens = Tokens(tmp_path / "tokens.json", clock)
    tokens.admit(f"Bearer {secret}", "infer")
    with pytest.raises(RateLimitedError) as refused:
        tokens.admit(f"Bearer {secret}", "infer")
    assert refused.value.headers == {"retry-after": "10"}


def test_changed_file_takes_effect_within_a_second(camera, clock):
    path, secret = camera
    tokens = Tokens(path, clock)
    other, token = new_token("other", ("admin",))
    write_tokens(path, [token])
    assert tokens.admit(f"Bearer {secret}", "infer") == "camera", "it was read a moment ago"
    clock.now_s += 1
    with pytest.raises(UnauthorizedError):
        tokens.admit(f"Bearer {secret}", "infer")
    assert tokens.admit(f"Bearer {other}", "admin") == "other"


@pytest.mark.parametrize("damage", ["remove", "garbage", "open"])
def test_damaged_file_leaves_the_tokens_in_force_and_is_logged(camera, clock, caplog, damage):
    path, secret = camera
    tokens = Tokens(path, clock)
    if damage == "remove":
        path.unlink()
    elif damage == "garbage":
        path.write_text("[")
    else:
        path.chmod(0o644)
    for _ in range(3):
        clock.now_s += 1
        assert tokens.admit(f"Bearer {secret}", "infer") == "camera"
    assert caplog.text.count("the tokens of before stay in force") == 1
    assert secret not in caplog.text


def test_mended_file_is_read_though_its_content_is_the_same(camera, clock):
    path, _ = camera
    tokens = Tokens(path, clock)
    other, token = new_token("other", ("infer",))
    write_tokens(path, [token])
    path.chmod(0o644)
    clock.now_s += 1
    with pytest.raises(UnauthorizedError):
        tokens.admit(f"Bearer {other}", "infer")
    path.chmod(0o600)
    clock.now_s += 1
    assert tokens.admit(f"Bearer {other}", "infer") == "other"


def test_rate_outlasts_a_change_of_the_file(camera, clock):
    path, secret = camera
    tokens = Tokens(path, clock)
    for _ in range(2):
        tokens.admit(f"Bearer {secret}", "infer")
    _, more = new_token("more", ("infer",))
    write_tokens(path, [*read_tokens(path), more])
    clock.now_s += 1
    for _ in range(2):
        tokens.admit(f"Bearer {secret}", "infer")
    with pytest.raises(RateLimitedError):
        tokens.admit(f"Bearer {secret}", "infer")


def test_hash_of_a_chosen_password_lets_nobody_in(tmp_path, clock):
    digest = hashlib.sha256(b"password").hexdigest()
    write_tokens(tmp_path / "tokens.json", [Token("weak", digest, ("admin",))])
    with pytest.raises(UnauthorizedError):
        Tokens(tmp_path / "tokens.json", clock).admit("Bearer password", "admin")


def test_pipe_in_place_of_the_file_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(SettingsError) as refused:
        Tokens(tmp_path / "pipe")
    assert str(refused.value) == f"{tmp_path / 'pipe'}: must be a file of tokens, but is none"


def test_file_behind_a_link_is_replaced_and_the_link_stays(camera, tmp_path):
    path, _ = camera
    link = tmp_path / "link.json"
    link.symlink_to(path)
    write_tokens(link, [])
    assert link.is_symlink()
    assert read_tokens(path) == []


def entry(**changes: Any) -> dict[str, Any]:
    _, token = new_token("a", ("infer",))
    return {**token.to_json(), **changes}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "must be JSON, but is not"),
        ("{}", "must be an array of at most 256 tokens"),
        ([entry(name=f"a{n}") for n in range(257)], "must be an array of at most 256 tokens"),
        ([1], "token 0 must be an object with name, sha256 and scopes"),
        ([entry(colour="red")], "token 0 must have no other key, but has 'colour'"),
        ([entry(name="a b")], "token 0: name must match"),
        ([entry(sha256="secret")], "token 0: sha256 must be 64 hexadecimal digits of a token"),
        (
            [entry(scopes=["root"])],
            "token 0: scopes must be some of infer, admin, but are ['root']",
        ),
        ([entry(scopes=[])], "token 0: scopes must be some of infer, admin, but are []"),
        ([entry(requests_per_s=0)], "token 0: requests_per_s must be null or in 0.001..1e+06"),
        ([entry(requests_per_s=True)], "token 0: requests_per_s must be null or in 0.001..1e+06"),
        ([entry(), entry()], "each name must be there once, but 'a' is twice"),
    ],
)
def test_file_that_cannot_be_used_is_refused(tmp_path, content, sentence):
    path = tmp_path / "tokens.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o600)
    with pytest.raises(SettingsError) as refused:
        Tokens(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert sentence in str(refused.value)


def test_file_that_others_can_read_is_refused(camera):
    path, _ = camera
    path.chmod(0o640)
    with pytest.raises(SettingsError) as refused:
        Tokens(path)
    assert str(refused.value) == (
        f"{path}: must be for its owner alone, but has mode 640; run chmod 600 {path}"
    )


def test_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="tokens cannot be read: No such file or directory"):
        Tokens(tmp_path / "none.json")


def command(*words: str, file: Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(cli, ["token", *words, "--file", str(file)])
    return done.exit_code, done.stdout, done.stderr


def test_command_makes_lists_and_revokes(tmp_path):
    file = tmp_path / "tokens.json"
    code, secret, _ = command("new", "camera", "--rate", "5", file=file)
    assert (code, secret[:4]) == (0, "emt_")
    code, _, _ = command("new", "ops", "--scope", "infer", "--scope", "admin", file=file)
    assert code == 0
    assert Tokens(file).admit(f"Bearer {secret.strip()}", "infer") == "camera"
    assert command("list", file=file)[1] == (
        "camera  infer  5 requests/s\nops  infer admin  no limit\n"
    )
    assert command("new", "ops", file=file) == (
        1,
        "",
        f"emamba-service: {file}: a name must be new, but 'ops' is there; revoke it first\n",
    )
    assert command("revoke", "camera", file=file)[0] == 0
    assert [token.name for token in read_tokens(file)] == ["ops"]
    assert command("revoke", "camera", file=file) == (
        1,
        "",
        f"emamba-service: {file}: must hold 'camera', but holds ops\n",
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("a", "--scope", "root"), "--scope must be one of infer, admin, but is 'root'"),
        (("a b",), "the new token: name must match"),
        (("a", "--rate", "0"), "the new token: requests_per_s must be null or in 0.001..1e+06"),
    ],
)
def test_command_refuses_what_cannot_be_a_token(tmp_path, words, sentence):
    code, said, complaint = command("new", *words, file=tmp_path / "tokens.json")
    assert (code, said) == (2, "")
    assert complaint.startswith(f"emamba-service: {sentence}")
    assert not (tmp_path / "tokens.json").exists()


@pytest.fixture
def guarded(calling, settings, tmp_path):
    """A service with a token of each scope: `guarded(**changes)` gives it and their headers."""
    secrets, tokens = {}, []
    for name, scopes, rate in (
        ("camera", ("infer",), None),
        ("ops", ("admin",), None),
        ("slow", ("infer",), 0.01),
    ):
        secrets[name], token = new_token(name, scopes, rate)
        tokens.append(token)
    write_tokens(tmp_path / "tokens.json", tokens)
    headers = {name: {"authorization": f"Bearer {secret}"} for name, secret in secrets.items()}
    with calling(create_app(settings(tokens=tmp_path / "tokens.json"))) as service:
        yield service, headers


def test_inference_needs_a_token_and_health_none(guarded, points):
    service, headers = guarded
    body = {"points": points}
    refused = service.request("POST", "/v1/pose", json=body)
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    assert refused.json()["type"] == "/problems/unauthorized"
    assert service.request("POST", "/v1/pose", json=body, headers=headers["camera"]).is_success
    forbidden = service.request("POST", "/v1/pose", json=body, headers=headers["ops"])
    assert forbidden.json()["detail"] == "token 'ops' must have the scope infer, but has admin"
    oip = service.request("POST", "/v2/models/mars/infer", content=b"{}")
    assert (oip.status_code, list(oip.json())) == (401, ["error"])
    for path in ("/health/live", "/health/ready", "/metrics", "/v2/health/ready", "/"):
        assert service.get(path).status_code == 200
    assert service.sample("emamba_errors_total", kind="unauthorized") == 2


def test_rate_of_a_token_is_429(guarded, points):
    service, headers = guarded
    statuses = [
        service.request("POST", "/v1/pose", json={"points": points}, headers=headers["slow"])
        for _ in range(3)
    ]
    assert next(answer.status_code for answer in statuses) == 200
    assert statuses[-1].status_code == 429
    assert statuses[-1].headers["retry-after"] == "100"


def test_models_are_loaded_by_admins_alone_and_audited(guarded, caplog):
    service, headers = guarded
    caplog.set_level("INFO", "emamba_service.audit")
    load = "/v2/repository/models/mars/load"
    assert service.request("POST", load).status_code == 401
    assert service.request("POST", load, headers=headers["camera"]).status_code == 403
    assert service.request("POST", load, headers=headers["ops"]).status_code == 200
    missing = service.request("POST", load.replace("mars", "venus"), headers=headers["ops"])
    assert missing.status_code == 404
    lines = [record.getMessage() for record in caplog.records if record.name.endswith("audit")]
    assert lines[0] == 'action=load outcome=done client=ops model=mars versions="9, 10"'
    assert lines[1].startswith("action=load outcome=refused client=ops model=venus reason=")
    assert len(lines) == 2


def test_without_tokens_nobody_loads_models(service):
    answer = service.request("POST", "/v2/repository/models/mars/unload")
    assert answer.status_code == 403
    assert answer.json() == {
        "error": "models are loaded and unloaded with a token, but the service was started "
        "without --tokens"
    }


def test_service_does_not_start_with_a_file_that_cannot_be_used(tmp_path, models_dir):
    file = tmp_path / "tokens.json"
    words = ["--tokens", str(file), "--models", str(models_dir), "--port", "0"]
    done = CliRunner().invoke(cli, [*words, "--engine", "mirror"])
    assert (done.exit_code, done.stderr) == (
        2,
        f"emamba-service: {file}: tokens cannot be read: No such file or directory\n",
    )

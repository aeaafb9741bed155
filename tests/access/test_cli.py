"""`podium keys`, and how the command line reaches a server that asks for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podium_server.access.secrets import Secret
from podium_server.cli.app import DONE, FAILED, MISUSED, run

CONFIG = """
[server]
data_dir = "data"
default_pipeline = "plain"
[pipelines.plain]
stages = [{ strategy = "first-stage" }]
[access]
keys = true
[tenants.acme]
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PODIUM_API_KEY", raising=False)
    (tmp_path / "podium.toml").write_text(CONFIG)
    return tmp_path


def keys(command: str, *arguments: str) -> int:
    return run(["keys", command, "--config", "podium.toml", *arguments])


def test_a_key_is_made_listed_and_revoked(capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--tenant", "acme", "--pipelines", "plain", "--collections", "a,b", "--expires", "90d", "--note", "shop")
    assert keys("create", *given) == DONE
    made = capsys.readouterr()
    whole = made.out.strip()
    assert made.out.count("\n") == 1
    assert "not shown again" in made.err
    assert keys("list", "--json") == DONE
    listed = json.loads(capsys.readouterr().out)
    assert listed["id"] == whole.split("_")[1]
    assert (listed["tenant"], listed["pipelines"], listed["collections"]) == ("acme", ["plain"], ["a", "b"])
    assert listed["state"].startswith("valid until")
    # Whoever pastes the whole key is understood, and does not find it in what is printed.
    assert keys("revoke", whole) == DONE
    assert whole not in capsys.readouterr().err
    assert keys("list") == DONE
    assert "revoked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tenant", "acmee"), "did you mean 'acme'?"),
        (("--tenant", "acme", "--pipelines", "plane"), "did you mean 'plain'?"),
        (("--tenant", "acme", "--expires", "soon"), "'soon' is no duration"),
        (("--tenant", "acme", "--expires", "0d"), "'0d' is no duration"),
    ],
)
def test_mistakes_are_told_before_a_key_is_made(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys("create", *arguments) == MISUSED
    assert words in capsys.readouterr().err
    assert keys("list") == DONE
    assert "there are no keys" in capsys.readouterr().out


def test_revoking_nobody_says_who_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert keys("revoke", "0123456789abcdef") in (MISUSED, FAILED)
    assert "no key is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("[tls]\ncertificate = 'a'\n", "tls.key is not"),
        ("[tls]\nclient_ca = 'a'\n", "mutual TLS needs both"),
        ("[tenants.'A b']\n", "is no tenant's name"),
        ("[tenants.a]\nsubjects=['x']\n[tenants.b]\nsubjects=['x']\n", "it can mean one only"),
        ("[tenants.a]\nnamespace='b'\n[tenants.b]\n", "would be one tenant"),
        ("[tenants.a]\nquotas=[{per='day'}]\n", "bounds nothing"),
        ("[tenants.a]\nquotas=[{per='week', requests=1}]\n", "per"),
        ("[tenants.a]\nquotes=[]\n", "did you mean 'quotas'?"),
    ],
)
def test_sections_refuse_what_cannot_be(
    folder: Path, section: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "podium.toml").write_text(CONFIG.replace("[tenants.acme]\n", "") + section)
    assert keys("list") == MISUSED
    assert words in capsys.readouterr().err


def test_a_key_does_not_travel_in_the_clear(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PODIUM_API_KEY", "podium_secret")
    assert run(["search", "--collection", "c", "--target", "192.0.2.1:1", "q"]) == MISUSED
    said = capsys.readouterr().err
    assert "would travel to 192.0.2.1:1 unencrypted" in said
    assert "podium_secret" not in said


def test_a_missing_key_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--target", "127.0.0.1:1", "--api-key-file", "missing.key"]
    assert run(["search", "--collection", "c", *given, "q"]) == MISUSED
    assert "missing.key" in capsys.readouterr().err


def test_secrets_have_no_text() -> None:
    assert str(Secret(b"abc")) == repr(Secret(b"abc")) == "Secret(…)"

"""Keys: kept as hashes, refused the moment they are not good any more, and never shown twice."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.access import keys
from podium_server.access.keys import KeyFile, KeyRing, digest_of, id_of
from podium_server.access.refusals import Refusal
from podium_server.access.secrets import Secret, pepper
from podium_server.errors import ConfigInvalid, NotFound, StoreError
from tests.access.made import standing
from tests.wire.serving import refused, request

PEPPER = Secret(b"p" * 32)


def ring_of(path: Path, secret: Secret = PEPPER) -> KeyRing:
    ring = KeyRing(path, lambda: secret)
    ring._look()
    return ring


def test_a_key_is_found_again_by_itself_alone(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.sqlite", PEPPER)
    whole, made = file.create("acme", pipelines=frozenset({"a", "b"}), collections=frozenset(), note="n", now_s=1.0)
    ring = ring_of(file.path)
    assert ring.find(whole) == made
    assert file.list() == (made,)
    for wrong in (whole[:-1], whole + "x", whole[:-2] + "zz", made.id, "", "podium_" + "0" * 16 + whole[23:]):
        assert ring.find(wrong) is None
    ring.close()


@given(st.text(max_size=100))
@settings(deadline=None)
def test_anything_may_be_given_as_a_key(text: str) -> None:
    ring = KeyRing(Path("/nowhere"), lambda: PEPPER)
    ring._pepper = PEPPER
    assert ring.find(text) is None or id_of(text)


def test_nothing_on_the_disk_has_the_secret_in_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    whole, made = KeyFile(path, PEPPER).create("acme")
    secret = whole.rpartition("_")[2] if "_" not in whole[24:] else whole[24:]
    content = path.read_bytes()
    assert secret.encode() not in content
    assert made.digest in content
    assert made.digest == hmac.digest(b"p" * 32, whole.encode(), "sha256") == digest_of(whole, PEPPER)
    assert path.stat().st_mode & 0o077 == 0
    assert secret not in repr(made)
    assert "p" * 32 not in f"{PEPPER!r} {PEPPER}"


def test_digests_are_compared_in_constant_time_for_unknown_ids_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = KeyFile(tmp_path / "keys.sqlite", PEPPER)
    whole, made = file.create("acme")
    ring = ring_of(file.path)
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest
    monkeypatch.setattr(keys.hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    unknown = whole.replace(made.id, "f" * 16)
    assert ring.find(whole) is not None
    assert ring.find(unknown) is None
    assert [len(right) for _, right in compared] == [32, 32]
    ring.close()


def test_another_pepper_is_told_of_and_not_taken_for_wrong_keys(tmp_path: Path) -> None:
    KeyFile(tmp_path / "keys.sqlite", PEPPER).create("acme")
    with pytest.raises(ConfigInvalid, match="another pepper"):
        ring_of(tmp_path / "keys.sqlite", Secret(b"q" * 32))
    with pytest.raises(ConfigInvalid, match="another pepper"):
        KeyFile(tmp_path / "keys.sqlite", Secret(b"q" * 32)).create("acme")


def test_the_pepper_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "pepper"
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        pepper(env=None, file=file, make=False)
    made = pepper(env=None, file=file, make=True)
    assert pepper(env=None, file=file, make=True).reveal() == made.reveal()
    assert file.stat().st_mode & 0o077 == 0
    assert len(made.reveal()) >= 32
    file.write_text("short")
    with pytest.raises(ConfigInvalid, match="at least 16"):
        pepper(env=None, file=file, make=True)


def test_a_file_that_is_none_of_keys_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.sqlite"
    path.write_bytes(b"not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(StoreError, match="cannot be read or written"):
        ring_of(path)
    with pytest.raises(StoreError):
        KeyFile(path, PEPPER).create("acme")


def test_revoking_is_for_good_and_names_what_there_is(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.sqlite", PEPPER)
    _, made = file.create("acme")
    assert file.revoke(made.id, now_s=5.0).revoked_s == 5.0
    assert file.revoke(made.id, now_s=9.0).revoked_s == 5.0
    with pytest.raises(NotFound) as caught:
        file.revoke("0" * 16)
    assert caught.value.known == (made.id,)


async def test_a_running_server_follows_the_file(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys.sqlite", lambda: PEPPER)
    ring.open()
    try:
        file = KeyFile(tmp_path / "keys.sqlite", PEPPER)
        whole, made = file.create("acme")  # the first key comes after the server
        await _until(lambda: ring.find(whole) is not None)
        file.revoke(made.id)
        await _until(lambda: (key := ring.find(whole)) is not None and key.revoked_s is not None)
        # Another file in its place (a mounted secret that was exchanged) is another set of keys.
        other = KeyFile(tmp_path / "other.sqlite", PEPPER)
        newer, _ = other.create("acme")
        other.path.replace(file.path)
        await _until(lambda: ring.find(newer) is not None)
        assert ring.find(whole) is None
        # One that is gone leaves what was there, says so, and is seen when it is back.
        file.path.rename(tmp_path / "away")
        await _until(lambda: ring.failures > 0)
        assert ring.find(newer) is not None
        (tmp_path / "away").rename(file.path)
        last, _ = file.create("acme")
        await _until(lambda: ring.find(last) is not None)
    finally:
        ring.close()


async def test_only_good_keys_come_in_and_each_refusal_is_counted(tmp_path: Path) -> None:
    async with standing(tmp_path) as server:
        good = server.key("acme", expires_s=time.time() + 3600)
        assert len((await server.stubs(good).rerank.Rerank(request(3))).ranking) == 3
        expired = server.key("acme", expires_s=time.time() - 1)
        stranger = server.key("nobody")
        revoked = server.key("acme")
        revoked_id = id_of(revoked)
        assert revoked_id is not None
        server.revoke(revoked_id)
        server.look()
        for key, reason in (
            (None, Refusal.MISSING),
            (good[:-1] + ("A" if good[-1] != "A" else "B"), Refusal.UNKNOWN),
            (expired, Refusal.EXPIRED),
            (revoked, Refusal.REVOKED),
            (stranger, Refusal.NO_TENANT),
        ):
            assert server.podium.access is not None
            before = server.podium.access.refusals.copy()
            error = await refused(server.stubs(key).rerank.Rerank(request(3)))
            assert error.code is grpc.StatusCode.UNAUTHENTICATED
            assert error.info.reason == "UNAUTHENTICATED"
            tenant = "acme" if reason in (Refusal.EXPIRED, Refusal.REVOKED) else ""
            assert server.podium.access.refusals - before == {(reason, tenant): 1}
            if key is not None:
                assert key not in f"{error.message} {error.status}"


async def _until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  # the ring's own state, which has no event
            await asyncio.sleep(0.02)

"""Certificates on real sockets: rotated without a restart, kept where the new ones are bad, asked of callers."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from pathlib import Path

import grpc
import pytest

from podium_client import AsyncClient, Unauthenticated, Unavailable, tls_credentials
from podium_server.access.sections import TlsSection
from podium_server.access.tls import Certificates, subjects_in, subjects_of
from podium_server.errors import ConfigInvalid
from tests.access.made import Authority, standing
from tests.wire.serving import request


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def put(pair: tuple[Path, Path], folder: Path) -> tuple[Path, Path]:
    """Put a certificate and its key where a server reads them, one file after the other, as rotations do."""
    at = folder / "server.pem", folder / "server.key"
    for source, target in zip(pair, at, strict=True):
        beside = target.with_suffix(".new")
        shutil.copy(source, beside)
        beside.replace(target)
    return at


def tls(folder: Path, **more: object) -> dict[str, object]:
    return {"certificate": str(folder / "server.pem"), "key": str(folder / "server.key"), **more}


async def serial(address: str, ca: Path) -> int:
    """Return the serial number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=str(ca))
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname="localhost")
    found = writer.get_extra_info("peercert")["serialNumber"]
    writer.close()
    return int(found, 16)


async def test_certificates_are_exchanged_while_calls_go_on(tmp_path: Path, authority: Authority) -> None:
    put(authority.sign("first"), tmp_path)
    async with standing(tmp_path, tls=tls(tmp_path)) as server:
        certificates = server.server.certificates
        assert certificates is not None
        credentials = tls_credentials(authority.ca.read_bytes())
        stubs = server.stubs(server.key("acme"), credentials)
        assert len((await stubs.rerank.Rerank(request(2))).ranking) == 2
        first = await serial(server.address, authority.ca)

        put(authority.sign("second"), tmp_path)
        second = await serial(server.address, authority.ca)
        assert second != first
        assert certificates.reloads == 1
        assert len((await stubs.rerank.Rerank(request(2))).ranking) == 2, "the old connection goes on"

        # A key that belongs to another certificate, and then no certificate at all: the good ones go on.
        (tmp_path / "server.key").write_bytes(authority.sign("third")[1].read_bytes())
        assert await serial(server.address, authority.ca) == second
        (tmp_path / "server.pem").write_text("-----BEGIN NOTHING-----\n")
        assert await serial(server.address, authority.ca) == second
        (tmp_path / "server.pem").unlink()
        assert await serial(server.address, authority.ca) == second
        assert certificates.failures >= 3
        assert certificates.reloads == 1

        put(authority.sign("fourth"), tmp_path)
        assert await serial(server.address, authority.ca) not in (first, second)
        # Without TLS nobody gets in, and with another authority nobody trusts us.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.stubs().rerank.Rerank(request(1), timeout=5)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        stranger = Authority(tmp_path / "stranger")
        async with AsyncClient(server.address, credentials=tls_credentials(stranger.ca.read_bytes())) as client:
            with pytest.raises(Unavailable):
                await client.rerank("q", ["a"], timeout_s=5)


async def test_grpc_follows_a_change_that_http_has_seen_first(tmp_path: Path, authority: Authority) -> None:
    """The fault run found that it did not: whoever looked first had the change for itself."""
    put(authority.sign("before"), tmp_path)
    async with standing(tmp_path, tls=tls(tmp_path)) as server:
        certificates = server.server.certificates
        assert certificates is not None
        before = await serial(server.address, authority.ca)
        put(authority.sign("after"), tmp_path)
        assert certificates.changed() is not None  # as a handshake of HTTP does
        assert await serial(server.address, authority.ca) != before


async def test_a_certificate_is_a_tenant(tmp_path: Path, authority: Authority) -> None:
    put(authority.sign("server"), tmp_path)
    tenants = {"acme": {"subjects": ["spiffe://test/acme"]}}
    mutual = tls(tmp_path, client_ca=str(authority.ca))
    async with standing(tmp_path, tls=mutual, tenants=tenants) as server:
        ca = authority.ca.read_bytes()
        of_acme = [path.read_bytes() for path in authority.sign("acme-caller", "URI:spiffe://test/acme")]
        nobody = [path.read_bytes() for path in authority.sign("nobody", "URI:spiffe://test/nobody")]
        options = [("grpc.ssl_target_name_override", "localhost")]

        def client(pair: list[bytes] | None, token: str | None = None) -> AsyncClient:
            credentials = tls_credentials(ca, *(pair or ()))
            return AsyncClient(server.address, credentials=credentials, token=token, options=options, timeout_s=10)

        async with client(of_acme) as known:
            assert {pipeline.name for pipeline in await known.list_pipelines()} == {"plain", "acme-own"}
        async with client(nobody) as unknown:
            with pytest.raises(Unauthenticated):
                await unknown.list_pipelines()
        # A key says more than the certificate, which may be a proxy's.
        async with client(of_acme, server.key("rival")) as rival:
            assert [pipeline.name for pipeline in await rival.list_pipelines()] == ["plain"]
        async with client(None) as bare:
            with pytest.raises(Unavailable):
                await bare.list_pipelines()


def test_a_context_for_http_follows_the_files(tmp_path: Path, authority: Authority) -> None:
    put(authority.sign("one"), tmp_path)
    certificates = Certificates(TlsSection(**tls(tmp_path)))
    context = certificates.context()

    def shown() -> str:
        """Shake hands in memory, as a server on asyncio does."""
        ends = [ssl.MemoryBIO() for _ in range(4)]
        ours = ssl.create_default_context(cafile=str(authority.ca))
        client = ours.wrap_bio(ends[0], ends[1], server_hostname="localhost")
        server = context.wrap_bio(ends[2], ends[3], server_side=True)
        for _ in range(4):
            for side in (client, server):
                with contextlib.suppress(ssl.SSLWantReadError):
                    side.do_handshake()
                ends[2].write(ends[1].read())
                ends[0].write(ends[3].read())
        found = client.getpeercert()
        assert found is not None
        return str(subjects_of(found))

    assert "localhost" in shown()
    assert "'one'" in shown()
    put(authority.sign("two"), tmp_path)
    assert "'two'" in shown()
    assert certificates.reloads == 1
    assert certificates.expires_s == pytest.approx(Certificates(TlsSection(**tls(tmp_path))).expires_s)


def test_files_that_change_while_a_context_reads_them_change_nothing(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read once more for each context, after they were tried; a rotation may be faster."""
    put(authority.sign("one"), tmp_path)
    certificates = Certificates(TlsSection(**tls(tmp_path)))
    context = certificates.context()
    before = certificates.material
    put(authority.sign("two"), tmp_path)
    fill = certificates._fill

    def half_a_rotation(given: ssl.SSLContext) -> None:
        if given is context:
            raise ConfigInvalid("the key is already the next one's")
        fill(given)

    with monkeypatch.context() as patched:
        patched.setattr(certificates, "_fill", half_a_rotation)
        assert certificates.changed() is None
        assert certificates.material is before
        assert certificates.failures == 1
    assert certificates.changed() is certificates.material is not before


def test_a_server_does_not_start_with_bad_certificates(tmp_path: Path, authority: Authority) -> None:
    put(authority.sign("one"), tmp_path)
    (tmp_path / "server.key").write_bytes(authority.sign("other")[1].read_bytes())
    with pytest.raises(ConfigInvalid, match=r"server\.key cannot be used"):
        Certificates(TlsSection(**tls(tmp_path)))
    with pytest.raises(ConfigInvalid, match=r"missing\.pem"):
        Certificates(TlsSection(certificate=tmp_path / "missing.pem", key=tmp_path / "server.key"))


def test_both_ways_to_ask_for_names_agree() -> None:
    by_python = {
        "subject": ((("commonName", "caller"),),),
        "subjectAltName": (("DNS", "a.test"), ("URI", "spiffe://x"), ("IP Address", "10.0.0.1")),
    }
    by_grpc = {"x509_common_name": [b"caller"], "x509_subject_alternative_name": [b"a.test", b"spiffe://x"]}
    assert subjects_of(by_python) == subjects_in(by_grpc) == ("a.test", "spiffe://x", "caller")
    assert subjects_of({}) == subjects_of(None) == subjects_in({}) == ()

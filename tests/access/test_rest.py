"""The same gate before REST: keys in headers, certificates of the server, quotas as HTTP says them."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn")

from podium_server.config import RestSection
from podium_server.errors import ConfigInvalid
from podium_server.rest.server import RestServer
from tests.access.made import Authority, standing

BODY = {"model": "plain", "query": "q", "documents": ["a", "b"]}


async def post(url: str, ca: Path, key: str | None, path: str = "/v2/rerank") -> tuple[int, dict[str, str], str]:
    headers = {"content-type": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    asked = urllib.request.Request(f"{url}{path}", json.dumps(BODY).encode(), headers)
    context = ssl.create_default_context(cafile=str(ca))

    def ask() -> tuple[int, dict[str, str], str]:
        try:
            with urllib.request.urlopen(asked, context=context, timeout=30) as answer:
                return answer.status, dict(answer.headers), answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read().decode()

    return await asyncio.to_thread(ask)


async def test_a_certificate_is_a_tenant_over_rest_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key_file = authority.sign("server")
    tls = {"certificate": str(certificate), "key": str(key_file), "client_ca": str(authority.ca)}
    of_acme = authority.sign("acme-caller", "URI:spiffe://test/acme")
    nobody = authority.sign("nobody", "URI:spiffe://test/nobody")
    async with standing(tmp_path, tls=tls, tenants={"acme": {"subjects": ["spiffe://test/acme"]}}) as server:
        rest = RestServer(RestSection(port=0))
        url = await rest.start(server.server)
        rival = server.key("rival")

        def models(shown: tuple[Path, Path] | None, key: str | None = None) -> tuple[int, str]:
            """Ask twice over one connection: what is known of it holds for all of its requests."""
            context = ssl.create_default_context(cafile=str(authority.ca))
            if shown is not None:
                context.load_cert_chain(*shown)
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            host, _, port = url.removeprefix("https://").rpartition(":")
            connection = http.client.HTTPSConnection(host, int(port), timeout=30, context=context)
            try:
                answers = []
                for _ in range(2):
                    connection.request("GET", "/v1/models", headers=headers)
                    answer = connection.getresponse()
                    answers.append((answer.status, answer.read().decode()))
            finally:
                connection.close()
            assert answers[0][0] == answers[1][0]
            return answers[0]

        try:
            status, said = await asyncio.to_thread(models, of_acme)
            assert status == 200
            assert "acme-own" in said
            assert (await asyncio.to_thread(models, nobody))[0] == 401
            # A key says more than the certificate, which may be a proxy's.
            status, said = await asyncio.to_thread(models, of_acme, rival)
            assert status == 200
            assert "acme-own" not in said
            # Nobody comes in without a certificate, and nobody is believed who writes what a certificate would say.
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                await asyncio.to_thread(models, None)
        finally:
            await rest.stop()


async def test_keys_quotas_and_certificates_hold_for_rest_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    certificate, key_file = authority.sign("server")
    tls = {"certificate": str(certificate), "key": str(key_file)}
    quotas = {"acme": {"quotas": [{"per": "month", "requests": 2}]}}
    async with standing(tmp_path, tls=tls, tenants=quotas) as server:
        rest = RestServer(RestSection(port=0))
        url = await rest.start(server.server)
        try:
            assert url.startswith("https://127.0.0.1:")
            acme, rival = server.key("acme"), server.key("rival")
            assert (await post(url, authority.ca, None))[0] == 401
            status, _, said = await post(url, authority.ca, "podium_wrong")
            assert status == 401
            assert "podium_wrong" not in said
            for _ in range(2):
                assert (await post(url, authority.ca, acme))[0] == 200
            status, headers, _ = await post(url, authority.ca, acme)
            assert status == 429
            assert int({name.lower(): value for name, value in headers.items()}["retry-after"]) > 0
            BODY["model"] = "acme-own"
            status, _, said = await post(url, authority.ca, rival)
            assert status == 403
            assert "the-mark-of-acme" not in said
        finally:
            BODY["model"] = "plain"
            await rest.stop()


async def test_rest_does_not_listen_to_everyone_either(tmp_path: Path) -> None:
    async with standing(tmp_path) as server:
        with pytest.raises(ConfigInvalid, match="no TLS"):
            await RestServer(RestSection(host="0.0.0.0", port=0)).start(server.server)

"""No secret is in any output: a server at DEBUG that has them everywhere, and everything that it prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

from podium.v1 import document_pb2, rerank_service_pb2, rerank_service_pb2_grpc
from podium_server import config
from podium_server.access.access import key_file
from podium_server.access.secrets import Secret, read_text
from podium_server.access.tls import Certificates
from podium_server.errors import ConfigInvalid
from tests.access.made import Authority

CONFIG = """
[server]
data_dir = "data"
default_pipeline = "plain"
[models.far]
backend = "openai"
model = "m"
base_url = "http://127.0.0.1:9"
api_key_env = "SECRET_OF_A_MODEL"
attempts = 1
reply_wait_s = 2
[pipelines.plain]
stages = [{ strategy = "first-stage" }]
[pipelines.asks]
stages = [{ strategy = "sliding-window", model = "far" }]
[tls]
certificate = "server.pem"
key = "server.key"
[access]
keys = true
pepper_env = "SECRET_PEPPER"
[tenants.acme]
quotas = [{ per = "day", requests = 1000, tokens = 1000000 }]
"""
MODEL_KEY, PEPPER = "sk-the-models-own-key-1234567", "pepper-of-all-keys-7654321"
QUERY, DOCUMENT = "the-very-private-query", "the-very-private-document"


def test_nothing_is_printed_that_is_secret(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "ca").sign("server")
    certificate.rename(tmp_path / "server.pem")
    key.rename(tmp_path / "server.key")
    (tmp_path / "podium.toml").write_text(CONFIG)
    environment = {
        **os.environ,
        "SECRET_OF_A_MODEL": MODEL_KEY,
        "SECRET_PEPPER": PEPPER,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]),
        "PYTHONASYNCIODEBUG": "1",
    }
    keys = ["-m", "podium_server", "keys"]
    made = _run(tmp_path, environment, *keys, "create", "--config", "podium.toml", "--tenant", "acme")
    whole = made.stdout.strip()
    assert whole.startswith("podium_")
    assert whole not in made.stderr
    listed = _run(tmp_path, environment, *keys, "list", "--config", "podium.toml", "--json")
    assert whole[7:23] in listed.stdout

    with (tmp_path / "all.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.access.leaky", "podium.toml"],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("listening on"), (tmp_path / "all.log").read_text()
            told = _call(line.split()[-1], (tmp_path / "ca" / "ca.pem").read_bytes(), whole)
        finally:
            process.send_signal(signal.SIGTERM)
            rest, _ = process.communicate(timeout=60)
    output = (tmp_path / "all.log").read_text("utf-8", "replace") + line + rest
    assert "DEBUG" in output, "it was told to say all it can"
    assert "refused at the gate" in output
    private = (tmp_path / "server.key").read_text().splitlines()[1]
    for secret in (MODEL_KEY, PEPPER, whole, whole[24:], private, "AAAA-a-wrong-key"):
        for place in (output, *told, made.stderr, listed.stdout, listed.stderr):
            assert secret not in place
    for private in (QUERY, DOCUMENT):
        assert private not in output


def _call(address: str, ca: bytes, key: str) -> list[str]:
    """Call with a good key, a wrong one, and none; return all that was told."""
    port = address.rpartition(":")[2]
    told = []
    with grpc.secure_channel(f"localhost:{port}", grpc.ssl_channel_credentials(ca)) as channel:
        stub = rerank_service_pb2_grpc.RerankServiceStub(channel)
        documents = [document_pb2.Document(id=str(i), text=f"{DOCUMENT} {i}") for i in range(3)]
        for pipeline in ("plain", "asks", "none"):
            for given in (key, key[:24] + "AAAA-a-wrong-key" + "A" * 27, "AAAA-a-wrong-key", None):
                metadata = [] if given is None else [("authorization", f"Bearer {given}"), ("x-api-key", given)]
                asked = rerank_service_pb2.RerankRequest(query=QUERY, documents=documents, pipeline=pipeline)
                try:
                    told.append(str(stub.Rerank(asked, metadata=metadata, timeout=30)))
                except grpc.RpcError as error:
                    told += [str(error.code()), error.details(), str(error.trailing_metadata())]
    return told


def _run(folder: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return done


def test_configurations_and_errors_show_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_PEPPER", PEPPER)
    monkeypatch.setenv("SECRET_OF_A_MODEL", MODEL_KEY)
    certificate, key = Authority(tmp_path / "ca").sign("server")
    text = CONFIG.replace('"server.pem"', repr(str(certificate))).replace('"server.key"', repr(str(key)))
    (tmp_path / "podium.toml").write_text(text)
    loaded = config.load(tmp_path / "podium.toml")
    file = key_file(loaded, tmp_path)
    whole, made = file.create("acme")
    material = Certificates(loaded.tls).material
    shown = f"{loaded!r} {loaded} {file!r} {made!r} {vars(file)!r} {material!r} {Secret(b'xyzzy')!r}"
    private = key.read_text().splitlines()[1]
    for secret in (PEPPER, MODEL_KEY, whole, private, "xyzzy"):
        assert secret not in shown
    (tmp_path / "bytes").write_bytes(b"\xff\xfe-not-text")
    for env, path in ((None, tmp_path / "missing"), (None, tmp_path / "bytes"), ("NOT_SET", None)):
        with pytest.raises(ConfigInvalid) as caught:
            read_text(env=env, file=path, what="a secret")
        assert "not-text" not in repr(caught.value)
    with pytest.raises(TypeError, match="not pickled"):
        Secret(b"x").__reduce__()


def test_converting_a_model_tells_nobody() -> None:
    """OpenVINO's converter would send statistics to Google, unasked."""
    looked = (
        "import podium_server.backends.openvino.convert\n"
        "from openvino.tools.ovc import convert_impl, telemetry_utils\n"
        "assert telemetry_utils.tm.__name__ == convert_impl.tm.__name__ == 'openvino.tools.ovc.telemetry_stub'\n"
    )
    subprocess.run([sys.executable, "-c", looked], check=True, timeout=100)

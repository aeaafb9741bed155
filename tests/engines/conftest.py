"""Real engines with tiny random models. `PODIUM_ENGINES=1` runs them; tests/engines/setup.sh builds what they need."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

if os.environ.get("PODIUM_ENGINES") != "1":
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ENGINES = ROOT / ".venv-engines"
# vLLM on a shared machine: one thread, a cache of 1 GiB, no binding to cores that others use too. On a GPU none of it
# matters.
VLLM_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}


def python_of(engine: str) -> str:
    path = ENGINES / engine / "bin" / "python"
    if not (ENGINES / engine / ".ready").exists():
        pytest.skip(f"{path} is not there: run tests/engines/setup.sh {engine}")
    return str(path)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def served(command: Sequence[str], port: int, log: Path, environment: Mapping[str, str] | None = None) -> Iterator[str]:
    """Run a server until the end of the block, from the moment on in which it lists its models."""
    url = f"http://127.0.0.1:{port}/v1"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})}
        )
        try:
            for _ in range(1200):
                if process.poll() is not None:
                    pytest.fail(f"{command[0]} ended at once:\n{log.read_text()[-4000:]}")
                try:
                    with urlopen(f"{url}/models", timeout=5) as reply:
                        json.load(reply)
                        break
                except (URLError, ConnectionError, TimeoutError):
                    time.sleep(0.25)
            else:
                pytest.fail(f"{command[0]} did not come up:\n{log.read_text()[-4000:]}")
            yield url
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture(scope="session")
def llama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python = python_of("llama")
    folder = tmp_path_factory.mktemp("llama")
    model = folder / "tiny.gguf"
    subprocess.run([python, str(HERE / "tiny_gguf.py"), str(model)], check=True)
    port = free_port()
    command = [python, "-m", "llama_cpp.server", "--model", str(model), "--model_alias", "tiny", "--port", str(port)]
    command += ["--n_ctx", "8192", "--logits_all", "true", "--n_threads", "1"]
    with served(command, port, folder / "log") as url:
        yield url


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    python = python_of("vllm")
    folder = tmp_path_factory.mktemp("model") / "tiny"
    subprocess.run([python, str(HERE / "tiny_hf.py"), str(folder)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def vllm_url(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    python_of("vllm")
    vllm = shutil.which("vllm", path=str(ENGINES / "vllm" / "bin"))
    assert vllm is not None
    port = free_port()
    command = [vllm, "serve", str(tiny_model), "--served-model-name", "tiny", "--port", str(port)]
    command += ["--max-model-len", "4096", "--max-num-seqs", "32", "--enforce-eager", "--enable-prompt-tokens-details"]
    with served(command, port, tmp_path_factory.mktemp("vllm") / "log", VLLM_ENVIRONMENT) as url:
        yield url

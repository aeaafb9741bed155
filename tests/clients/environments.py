"""The environments of the clients that `make test-clients` tries, as few as their pins allow: the newest of each.

langchain-cohere wants cohere below 6 and llama-index's postprocessor below 7, so that three of them hold three versions
of it; huggingface_hub 2 does not go with `tokenizers`, which cohere brings.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "haystack": (
        "cohere==7.3.1",
        "haystack-ai==3.4.0",
        "cohere-haystack==11.0.0",
        "jina-haystack==2.0.1",
        "vllm-haystack==3.0.1",
        "huggingface-api-haystack==3.1.0",
    ),
    "llamaindex": (
        "cohere==6.1.0",
        "llama-index-postprocessor-cohere-rerank==0.10.0",
        "llama-index-postprocessor-jinaai-rerank==0.6.0",
        "llama-index-postprocessor-tei-rerank==0.6.0",
        "huggingface_hub==0.30.2",  # the last whose InferenceClient has a public `post`
    ),
    # litellm 1.109 wants a certifi that is not in the registry from which this was first built.
    "langchain": ("cohere==5.21.1", "langchain-cohere==0.6.0", "voyageai==0.5.0", "litellm==1.106.2"),
    "light": ("rerankers[api]==0.10.0", "huggingface_hub==2.4.0"),
    # No client but a server, for the other way round: the versions of bench/crossencoder.py, and what serves them.
    "infinity": (
        "torch==2.13.0",
        "infinity-emb[torch,server]==0.0.78",
        "sentence-transformers==3.4.1",
        "transformers==4.57.6",
        "huggingface_hub==0.36.2",
        "numpy==1.26.4",
        "click==8.1.8",  # typer 0.12 wants it; pip looks for it for half an hour if it is not told
    ),
}


def python(name: str) -> Path:
    """Return the interpreter of an environment."""
    return folder(name) / "bin" / "python"


def folder(name: str) -> Path:
    """Return the folder of an environment."""
    return ROOT / f".venv-client-{name}"


def is_built(name: str) -> bool:
    """Whether an environment has what is listed here."""
    ready = folder(name) / ".ready"
    return ready.is_file() and ready.read_text("utf-8") == _wanted(name)


def build(name: str) -> None:
    """Build an environment from the package registry, unless it is there already.

    Raises:
        subprocess.CalledProcessError: the registry has no versions that go together.

    """
    if is_built(name):
        return
    subprocess.run([sys.executable, "-m", "venv", folder(name)], check=True)
    pip = [python(name), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    subprocess.run([*pip, *ENVIRONMENTS[name]], check=True)
    (folder(name) / ".ready").write_text(_wanted(name), "utf-8")


def _wanted(name: str) -> str:
    return "\n".join(ENVIRONMENTS[name])


if __name__ == "__main__":
    for each in sys.argv[1:] or ENVIRONMENTS:
        print(f"{each}: {', '.join(ENVIRONMENTS[each])}", flush=True)
        build(each)

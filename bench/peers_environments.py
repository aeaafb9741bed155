"""The peers' environments: one for each library, built when it is first wanted, versions pinned."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Environment:
    """What an environment is made of.

    Args:
        name: of the folder, behind `.venv-peer-`.
        installs: arguments of pip, one call each.
        shows: distributions whose versions go into the table.

    """

    name: str
    installs: tuple[tuple[str, ...], ...]
    shows: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return ROOT / f".venv-peer-{self.name}"

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def build(self) -> str:
        """Build it where it is not there, and return why it cannot be, or nothing."""
        whole, wanted = self.folder / ".whole", repr(self.installs)
        if whole.exists() and whole.read_text() == wanted:
            return ""
        print(f"building the environment of {self.name} …", file=sys.stderr, flush=True)
        steps = [[sys.executable, "-m", "venv", "--clear", str(self.folder)]]
        steps += [
            [str(self.python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages]
            for packages in self.installs
        ]
        for step in steps:
            ended = subprocess.run(step, capture_output=True, text=True)
            if ended.returncode:
                shutil.rmtree(self.folder, ignore_errors=True)
                last = [line for line in ended.stderr.splitlines() if line.strip()]
                return last[-1][:200] if last else f"{' '.join(step[:5])} ended with {ended.returncode}"
        whole.write_text(wanted)
        return ""


# tiktoken, by which two of them count tokens, fetches its table over a network; litellm's wheel has it inside.
_TABLES = ("litellm==1.100.0", "--no-deps")

ENVIRONMENTS = {
    "rerankers": Environment(
        "rerankers", (("rerankers==0.10.0", "litellm==1.100.0"),), ("rerankers", "litellm", "openai")
    ),
    # Its modules speak openai 0.27, and import torch and transformers for its own models.
    "llm-rankers": Environment(
        "llm-rankers",
        (
            ("torch==2.13.0",),
            ("llm-rankers==0.0.2", "openai==0.27.10", "tiktoken==0.14.0", "transformers==4.57.6", "tqdm"),
            _TABLES,
        ),
        ("llm-rankers", "openai", "transformers", "torch"),
    ),
    # It insists on vllm, a CUDA wheel of gigabytes that does not start here, and imports it without calling it on the
    # way to an endpoint: what it imports on that way, and a stand-in for vllm (`peers_worker`). Newer transformers lack
    # a name that it imports.
    "rank_llm": Environment(
        "rank_llm",
        (
            ("torch==2.13.0",),
            ("rank-llm==0.25.7", "--no-deps"),
            (
                "tqdm",
                "openai==3.52.0",
                "tiktoken==0.14.0",
                "transformers==4.51.3",
                "python-dotenv",
                "ftfy",
                "dacite",
                "pyyaml",
            ),
            _TABLES,
        ),
        ("rank-llm", "openai", "transformers", "torch"),
    ),
}


if __name__ == "__main__":
    for environment in ENVIRONMENTS.values():
        why = environment.build()
        print(f"{environment.name}: {why or 'whole'}", flush=True)

"""Tries the rerank clients that are about, each as it is but for its base URL, against a Podium on real sockets.

    python tests/clients/run.py [--build-only] [NAME ...]

Every client asks the same (`scripts/asking.py`); what it has to get is the order and the scores that Podium gives by
itself. The table of `docs/clients.md` is written from the run, where nothing was left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from environments import ENVIRONMENTS, ROOT, build, python

SCRIPTS = Path(__file__).parent / "scripts"
PAGE = ROOT / "docs" / "clients.md"
BEGIN, END = "<!-- the table: written by tests/clients/run.py -->", "<!-- the end of the table -->"

QUERY = "how long do fleas live"
DOCUMENTS = [
    "Paris is the capital of France, and its largest city.",
    "A flea can live up to a year, but its general lifespan depends on its living conditions.",
    "Fleas have four stages of life: egg, larva, pupa and adult.",
    "The Nile is the longest river of Africa.",
    "Most adult fleas die after a few weeks without a host.",
    "Bread rises because yeast makes carbon dioxide.",
    "Cats are bitten by fleas more often in summer.",
]
TOP_N = 3
RUN_S_MAX = 240.0
ROUNDING = 1e-4

# What clients send for `model`, and some of them look at: names of models that their providers have.
MODELS = ("rerank-v3.5", "jina-reranker-v2-base-multilingual", "rerank-2.5", "BAAI/bge-reranker-base")
CONFIG = """
[server]
default_pipeline = "graded"
[pipelines.graded]
stages = [{{ strategy = "pointwise", model = "minilm" }}]
[rest]
models = {{ {models} }}
[access]
keys = true
[tenants.clients]
"""


@dataclass(frozen=True)
class Client:
    """A row of the table.

    Args:
        title: what is called.
        environment: where it is installed.
        script: that calls it.
        model: that it names; empty where its protocol has none.
        speaks: the path that it asks, behind its base URL.
        base: what is configured as its base URL, behind the server's address.
        variant: of the script.
        cannot: what it does not do however it is answered, and why.

    """

    title: str
    environment: str
    script: str
    model: str
    speaks: str
    base: str = ""
    variant: str = ""
    cannot: str = ""
    gives_all: bool = False
    """It asks for the best few in a way that its protocol does not have, and gives all back."""


COHERE, JINA, VOYAGE, BGE = MODELS
ALL_OF_TEI = "sends TEI a `top_n`, which TEI does not have; all documents come back, of TEI itself, too"
NO_STRINGS = (
    "with `return_documents=False`: infinity gives documents back as strings, in a body that is otherwise Jina's, and "
    "nothing in a request tells the two apart"
)
NOT_VOYAGES = (
    "asks with no key that is Voyage's alone unless it has a `top_n`, so that it has to be told apart by its base URL"
)
NEVER_LOOKS = "never looks at the status of an answer: an error is met as the first field that is missing"

CLIENTS = (
    *(
        Client(f"cohere.{kind}", environment, "cohere_client", COHERE, path, variant=kind)
        for environment in ("haystack", "llamaindex", "langchain")
        for kind, path in (("Client", "/v1/rerank"), ("ClientV2", "/v2/rerank"), ("AsyncClientV2", "/v2/rerank"))
    ),
    Client("langchain_cohere.CohereRerank", "langchain", "langchain_cohere_rerank", COHERE, "/v2/rerank"),
    Client(
        "llama-index CohereRerank", "llamaindex", "llama_index_rerank", COHERE, "/v2/rerank", variant="CohereRerank"
    ),
    Client("llama-index JinaRerank", "llamaindex", "llama_index_rerank", JINA, "/v1/rerank", "/v1", "JinaRerank"),
    Client(
        "llama-index TextEmbeddingInference",
        "llamaindex",
        "llama_index_rerank",
        "",
        "/rerank",
        variant="TextEmbeddingInference",
        cannot=NEVER_LOOKS,
    ),
    Client("haystack CohereRanker", "haystack", "haystack_ranker", COHERE, "/v2/rerank", variant="CohereRanker"),
    Client("haystack JinaRanker", "haystack", "haystack_ranker", JINA, "/v1/rerank", "/v1/rerank", "JinaRanker"),
    Client("haystack VLLMRanker", "haystack", "haystack_ranker", BGE, "/v1/rerank", "/v1", "VLLMRanker"),
    Client(
        "haystack HuggingFaceTEIRanker", "haystack", "haystack_ranker", "", "/rerank", variant="HuggingFaceTEIRanker"
    ),
    Client("voyageai.Client", "langchain", "voyageai_client", VOYAGE, "/v1/rerank", "/v1", "Client"),
    Client("voyageai.AsyncClient", "langchain", "voyageai_client", VOYAGE, "/v1/rerank", "/v1", "AsyncClient"),
    *(
        Client(f"rerankers APIRanker ({provider})", "light", "rerankers_api", model, path, path, provider, NEVER_LOOKS)
        for provider, model, path in (
            ("cohere", COHERE, "/v1/rerank"),
            ("jina", JINA, "/v1/rerank"),
            ("voyage", VOYAGE, "/v1/rerank"),
            ("text-embeddings-inference", "", "/rerank"),
        )
    ),
    *(
        Client(
            f"litellm.rerank ({title})", "langchain", "litellm_rerank", model, path, base, variant, cannot, bool(all_)
        )
        for title, model, path, base, variant, cannot, all_ in (
            ("cohere/, v1", COHERE, "/v1/rerank", "", "cohere", "", 0),
            ("cohere/, v2", COHERE, "/v2/rerank", "", "cohere:v2", "", 0),
            ("jina_ai/", JINA, "/v1/rerank", "", "jina_ai", "", 0),
            ("voyage/", VOYAGE, "/voyage/v1/rerank", "/voyage", "voyage", NOT_VOYAGES, 0),
            ("hosted_vllm/", BGE, "/rerank", "", "hosted_vllm", "", 0),
            ("huggingface/", "", "/rerank", "", "huggingface", ALL_OF_TEI, 1),
            ("infinity/", BGE, "/rerank", "", "infinity", NO_STRINGS, 0),
        )
    ),
    Client(
        "huggingface_hub InferenceClient.post",
        "llamaindex",
        "huggingface_hub_post",
        "",
        "/rerank",
        variant="InferenceClient.post",
    ),
    Client(
        "huggingface_hub get_session",
        "light",
        "huggingface_hub_post",
        "",
        "/rerank",
        variant="get_session",
        cannot="has no call for a rerank since 0.31; its HTTP session and its reading of errors are tried",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """What came of one client."""

    client: Client
    version: str
    faults: tuple[str, ...]
    told: dict[str, Any]


# --- the server ---------------------------------------------------------------------------------------------------


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, str]]:
    """A Podium with REST and keys, as `podium serve` starts it: its address, and a key that is good."""
    config = folder / "podium.toml"
    models = ", ".join(f'"{name}" = "graded"' for name in MODELS)
    config.write_text(CONFIG.format(models=models), "utf-8")
    data = folder / "data"
    key = _key(config, data)
    podium = [sys.executable, "-m", "podium_server", "serve", "--config", str(config), "--data-dir", str(data)]
    command = [*podium, "--port", "0", "--rest-port", "0"]
    with (folder / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
        try:
            yield _address(server, folder), key
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)


def _key(config: Path, data: Path) -> str:
    """Return a new key of the one tenant."""
    from podium_server.access.access import key_file
    from podium_server.config import load

    data.mkdir()
    key, _ = key_file(load(config), data).create("clients")
    return key


def _address(server: subprocess.Popen[str], folder: Path) -> str:
    assert server.stdout is not None
    for line in server.stdout:
        if line.startswith("listening on http"):
            return line.split()[-1]
    raise SystemExit(f"the server did not start:\n{(folder / 'server.log').read_text('utf-8')}")


async def expected() -> list[tuple[int, float]]:
    """Return what Podium says by itself: places and scores, the best first."""
    from podium_server.compose import Podium
    from podium_server.config import load
    from podium_server.judges.case import Candidate
    from podium_server.ranking.request import RankRequest

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "podium.toml"
        config.write_text('[pipelines.graded]\nstages = [{ strategy = "pointwise", model = "minilm" }]', "utf-8")
        podium = Podium(load(config), data_dir=None)
        try:
            candidates = tuple(Candidate(str(i), text) for i, text in enumerate(DOCUMENTS))
            outcome = await podium.reranker.rerank(RankRequest(QUERY, candidates, pipeline="graded"))
        finally:
            await podium.aclose()
    # The mean of cosines; the dialects promise 0 to 1.
    return [(i, (1 + (outcome.scores[i] or 0.0)) / 2) for i in outcome.order]


# --- the clients --------------------------------------------------------------------------------------------------

QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "DO_NOT_TRACK": "1",
    "NO_PROXY": "127.0.0.1",
    "TQDM_DISABLE": "1",
}


def tried(client: Client, url: str, key: str, best: list[tuple[int, float]]) -> Outcome:
    """Run one client, and say what is wrong with what it got."""
    task = {
        "url": f"{url}{client.base}",
        "key": key,
        "query": QUERY,
        "documents": DOCUMENTS,
        "model": client.model or "BAAI/bge-reranker-base",
        "top_n": TOP_N,
        "variant": client.variant,
    }
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
        done = subprocess.run(
            [
                python(client.environment),
                SCRIPTS / f"{client.script}.py",
                *([client.variant] if client.variant else []),
            ],
            input=json.dumps(task),
            capture_output=True,
            text=True,
            timeout=RUN_S_MAX,
            env={**kept, **QUIET, "HOME": home},
            cwd=home,
            check=False,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        return Outcome(client, "?", (f"the script ended with {done.returncode}: {done.stderr.strip()[-300:]}",), {})
    told = json.loads(lines[-1].removeprefix("RESULT "))
    return Outcome(client, f"{told['package']} {told['version']}", tuple(faults(client, told, best)), told)


def faults(client: Client, told: dict[str, Any], best: list[tuple[int, float]]) -> Iterator[str]:
    """Yield what is wrong; `best` is what Podium says by itself."""
    top = best if client.gives_all else best[:TOP_N]
    for what, wanted in (("rank", best), ("again", best), ("top", top)):
        if "error" in told[what]:
            yield f"{what}: {told[what]['error']}: {told[what]['message']}"
            continue
        places, scores = [place for place, _ in told[what]["ranked"]], [score for _, score in told[what]["ranked"]]
        if places != [place for place, _ in wanted]:
            yield f"{what}: the order is {places}, and Podium's is {[place for place, _ in wanted]}"
        elif any(abs(score - own) > ROUNDING for score, (_, own) in zip(scores, wanted, strict=True)):
            yield f"{what}: the scores are {scores}, and Podium's {[own for _, own in wanted]}"
    if len(told["hostile"].get("ranked", ())) != 3:
        yield f"hostile: {told['hostile']}"
    if "error" not in told["bad_key"]:
        yield "a wrong key got an answer"
    if client.model and "error" not in told["unknown_model"]:
        yield "an unknown model got an answer"
    if told["no_documents"].get("ranked"):
        yield "no documents got an answer with some"


# --- the page -----------------------------------------------------------------------------------------------------


def table(outcomes: list[Outcome]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| client | version | base URL | asks | works | a wrong key | an unknown model | no documents |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes: list[str] = []
    for outcome in outcomes:
        client, told = outcome.client, outcome.told
        works = "yes" if not outcome.faults else "**no**"
        if outcome.faults:
            notes.append(f"- {client.title} ({outcome.version}): {'; '.join(outcome.faults)}")
        cells = [
            client.title,
            outcome.version,
            f"`http://HOST:PORT{client.base}`",
            f"`{client.speaks}`",
            works,
            _said(told.get("bad_key")),
            _said(told.get("unknown_model")) if client.model else "names none",
            _said(told.get("no_documents")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    cannot = {outcome.client.cannot: [] for outcome in outcomes if outcome.client.cannot}
    for outcome in outcomes:
        if outcome.client.cannot:
            cannot[outcome.client.cannot].append(outcome.client.title)
    notes += [f"- {', '.join(titles)}: {what}." for what, titles in cannot.items()]
    works = sum(not outcome.faults for outcome in outcomes)
    head = f"{works} of {len(outcomes)} work, tried on {date.today().isoformat()} by `make test-clients`."
    return "\n".join([head, "", *lines, "", *notes])


def _said(one: dict[str, Any] | None) -> str:
    if one is None:
        return "–"
    if "error" in one:
        return f"`{one['error']}`"
    return "an empty list" if not one["ranked"] else "an answer"


def write(outcomes: list[Outcome]) -> None:
    """Put the table into the page."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(outcomes)}\n\n{END}{after}", "utf-8")


def main() -> int:
    """Build, run, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of titles; all clients without")
    parser.add_argument("--build-only", action="store_true")
    arguments = parser.parse_args()
    chosen = [
        client
        for client in CLIENTS
        if not arguments.names or any(name.lower() in client.title.lower() for name in arguments.names)
    ]
    for environment in ENVIRONMENTS:
        if any(client.environment == environment for client in chosen):
            build(environment)
    if arguments.build_only:
        return 0
    best = asyncio.run(expected())
    outcomes = []
    with tempfile.TemporaryDirectory() as folder, served(Path(folder)) as (url, key):
        for client in chosen:
            outcomes.append(tried(client, url, key, best))
            shown = "; ".join(outcomes[-1].faults) or "works"
            print(f"{client.title:44} {outcomes[-1].version:48} {shown}", flush=True)
    if not arguments.names:
        write(outcomes)
    return 1 if any(outcome.faults for outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())

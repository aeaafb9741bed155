"""Grades by somebody else's rerank endpoint, over real sockets: scores, limits, failures, and the bill."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import CostBasis, Usage
from podium_server.backends.chat.openai.settings import ChatSettings
from podium_server.backends.chat.tokens import load_tokens
from podium_server.backends.rerank_api.api import RerankApi
from podium_server.backends.rerank_api.dialects import DIALECTS
from podium_server.compose import Podium
from podium_server.config import load
from podium_server.errors import (
    BackendDown,
    BackendRefused,
    ConfigInvalid,
    DeadlineExceeded,
    FailedPrecondition,
    Overloaded,
    PodiumError,
    UnreadableReply,
)
from podium_server.judges.case import Candidate, Case, Side, Truncation
from podium_server.judges.judge import Ruling, ScoreKind
from podium_server.judges.rerank_api import RerankApiJudge
from podium_server.ranking.request import Budget, Completion, Outcome, RankRequest
from podium_strategies.plan import Grade
from tests.backends import naughty
from tests.backends.conftest import VirtualTime, until
from tests.backends.rerankers import answering, endpoint, logit, probability, results, sent, tokens
from tests.ranking.scripted import pipeline, reranker

QUERY = "a question"
TEXTS = [f"the text number {i}" for i in range(70)]
POINTWISE = {"strategy": "pointwise", "model": "m"}


@asynccontextmanager
async def api(dialect: str, *urls: str, limits: dict[str, Any] | None = None, **more: Any) -> AsyncIterator[RerankApi]:
    made = RerankApi(
        "m",
        spoken=DIALECTS[dialect],
        model="a-model",
        base_urls=urls,
        settings=ChatSettings(concurrency=4, **(limits or {})),
        **more,
    )
    try:
        yield made
    finally:
        await made.aclose()


@asynccontextmanager
async def talking(
    dialect: str, *behaviours: naughty.Behaviour, choose: Any = None, **more: Any
) -> AsyncIterator[tuple[naughty.Naughty, RerankApi]]:
    """An endpoint that does these things first and then answers, and the model behind it."""
    server = endpoint(dialect, *behaviours, choose=choose)
    async with server, api(dialect, root(server), **more) as made:
        yield server, made


async def ranked(judge: RerankApiJudge, texts: Sequence[str] = TEXTS, **more: Any) -> Outcome:
    request = RankRequest(QUERY, tuple(Candidate(str(i), text) for i, text in enumerate(texts)), **more)
    return await reranker(pipeline({"m": judge}, POINTWISE)).rerank(request)


def root(server: naughty.Naughty) -> str:
    return server.url.removesuffix("/v1")


class Collected:
    """A sink that keeps what it is given."""

    def __init__(self) -> None:
        self.rulings: dict[int, Ruling] = {}
        self.in_vain = Usage()

    def ruled(self, index: int, ruling: Ruling, *, elapsed_s: float) -> None:
        assert index not in self.rulings
        self.rulings[index] = ruling

    def spent(self, usage: Usage) -> None:
        self.in_vain = self.in_vain + usage


def case(texts: Sequence[str] = TEXTS, **more: Any) -> tuple[Case, list[Grade]]:
    given = Case(QUERY, [Candidate(str(i), text) for i, text in enumerate(texts)], **more)
    return given, [Grade(item) for item in range(len(texts))]


# --- scores and bills ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_every_dialect_gives_the_order_the_scores_and_the_bill(dialect: str) -> None:
    prices = Prices(prompt_usd_per_mtok=2.0, usd_per_search_unit=0.002)
    async with talking(dialect) as (server, made):
        judge = RerankApiJudge(made, prices=prices)
        outcome = await ranked(judge)
        quoted = judge.estimate(*case())
    scores = [probability(QUERY, text) for text in TEXTS]
    assert list(outcome.scores) == scores
    assert outcome.order == tuple(sorted(range(70), key=lambda i: -scores[i]))
    assert outcome.score_kind is ScoreKind.PROBABILITY
    total = outcome.ledger.total()
    requests = 3 if dialect == "tei" else 1
    assert (total.calls, total.retries, total.pairs) == (requests, 0, 70)
    assert (quoted.calls, quoted.pairs) == (requests, 70)
    assert [len(sent(call.body)) for call in server.calls] == ([32, 32, 6] if dialect == "tei" else [70])
    if dialect.startswith("cohere"):
        assert (total.search_units, quoted.search_units) == (1, 1)
        assert total.cost_nano_usd == 2_000_000 + total.prompt_tokens * 2_000
    else:
        used = sum(tokens(call.body) for call in server.calls)
        assert (total.prompt_tokens, total.search_units) == (used, 0)
        assert total.cost_nano_usd == used * 2_000
    assert total.cost_basis is CostBasis.PRICE_TABLE
    assert dict(total.repairs) == {}
    assert total.backend_s > 0
    (account,) = outcome.ledger
    told = "a-model" if dialect not in ("tei", "cohere-v1", "cohere-v2") else account.revision
    assert (account.model, account.revision, account.questions) == ("m", told, 70)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 60), st.integers(1, 40), st.none() | st.integers(20, 400))
def test_however_it_is_split_each_score_stands_at_its_document(n: int, documents: int, most: int | None) -> None:
    async def tried() -> None:
        async with talking("voyage", documents_max=documents, tokens_max=most) as (server, made):
            sink = Collected()
            await RerankApiJudge(made).rule(*case(TEXTS[:n]), sink)
            sheet = made.sheet(QUERY, TEXTS[:n])
            parts = list(made.parts(sheet))
        answers = [sink.rulings[i].answer for i in range(n)]
        assert answers == [probability(QUERY, text) for text in TEXTS[:n]]
        assert [i for part in parts for i in range(part.start, part.stop)] == list(range(n))
        for part in parts:
            assert part.stop - part.start <= documents
            assert most is None or part.stop - part.start == 1 or sheet.used(part) <= most
        total = sum((ruling.usage for ruling in sink.rulings.values()), Usage())
        assert (total.calls, total.pairs) == (len(parts), n) == (len(server.calls), n)

    asyncio.run(tried())


@pytest.mark.parametrize("dialect", ["tei", "infinity", "vllm"])
async def test_logits_are_asked_for_where_there_are_some(dialect: str) -> None:
    async with talking(dialect) as (_server, made):
        outcome = await ranked(RerankApiJudge(made, "logit"))
    assert list(outcome.scores) == [logit(QUERY, text) for text in TEXTS]
    assert outcome.score_kind is ScoreKind.LOGIT


async def test_logits_are_refused_where_there_are_none_and_cosines_are_no_probabilities() -> None:
    async with api("cohere-v2", "http://127.0.0.1:1") as made:
        with pytest.raises(FailedPrecondition, match=r"'cohere-v2' .* gives no scores before their sigmoid"):
            RerankApiJudge(made, "logit")
    async with api("jina", "http://127.0.0.1:1", scale="cosine") as made:
        assert RerankApiJudge(made).facts.score_kind is ScoreKind.COSINE
        with pytest.raises(FailedPrecondition, match="are cosines"):
            RerankApiJudge(made, "probability")


async def test_a_sigmoid_is_applied_once_to_an_endpoint_that_gives_logits() -> None:
    body = {"model": "a-model", "usage": {"total_tokens": 1}, "results": results([2.0, -3.0])}
    async with talking("jina", naughty.body(json.dumps(body).encode()), scale="logit") as (_server, made):
        outcome = await ranked(RerankApiJudge(made, "probability"), TEXTS[:2])
    assert outcome.scores == (pytest.approx(0.880797), pytest.approx(0.0474259))
    assert dict(outcome.ledger.total().repairs) == {}


async def test_a_probability_of_5_is_counted() -> None:
    body = {"model": "a-model", "usage": {"total_tokens": 1}, "results": results([5.0, 0.1])}
    async with talking("jina", naughty.body(json.dumps(body).encode())) as (_server, made):
        outcome = await ranked(RerankApiJudge(made), TEXTS[:2])
    assert dict(outcome.ledger.total().repairs) == {"out_of_scale": 1}


async def test_an_endpoint_that_does_not_count_is_estimated_and_that_is_counted() -> None:
    body = json.dumps({"results": results([0.5, 0.1])}).encode()
    for dialect in ("jina", "cohere-v2"):
        async with talking(dialect, naughty.body(body)) as (_server, made):
            total = (await ranked(RerankApiJudge(made), TEXTS[:2])).ledger.total()
        assert total.prompt_tokens > 0
        assert total.search_units == (dialect == "cohere-v2")
        assert dict(total.repairs) == {"usage_estimated": 1}


async def test_a_price_that_nobody_configured_is_unknown() -> None:
    async with talking("cohere-v2") as (_server, made):
        outcome = await ranked(RerankApiJudge(made))
    assert outcome.ledger.total().cost_nano_usd is None


# --- what is cut --------------------------------------------------------------------------------------------------


async def test_what_is_cut_is_counted_and_the_end_that_was_asked_for_goes() -> None:
    texts = ["short", "a" * 60 + "z" * 60, "b" * 120]
    async with talking("jina", max_tokens=30) as (server, made):
        outcome = await ranked(RerankApiJudge(made), texts)
        shorter = Truncation(max_tokens_per_document=10, side=Side.START)
        cut = await ranked(RerankApiJudge(made), texts, truncation=shorter)
    assert outcome.ledger.total().truncated_documents == 2
    assert sent(server.calls[0].body) == ["short", "a" * 60 + "z" * 30, "b" * 90]
    assert cut.ledger.total().truncated_documents == 2
    assert sent(server.calls[1].body) == ["short", "z" * 30, "b" * 30]


async def test_an_endpoint_that_can_cut_by_its_own_tokens_is_told_to() -> None:
    texts = ["short", "a" * 120]
    async with talking("cohere-v2", max_tokens=30) as (server, made):
        outcome = await ranked(RerankApiJudge(made), texts)
        await ranked(RerankApiJudge(made), texts, truncation=Truncation(max_tokens_per_document=20))
    assert outcome.ledger.total().truncated_documents == 1
    assert [(sent(call.body), call.body["max_tokens_per_doc"]) for call in server.calls] == [(texts, 30), (texts, 20)]


@pytest.mark.parametrize("side", Side)
async def test_with_the_models_own_tokenizer_the_cut_is_exact(side: Side) -> None:
    folder = files("podium_server.models") / "all-minilm-l6-v2"
    texts = ["one two three", " ".join(f"w{i}" for i in range(40)), *TEXTS[:10]]
    async with talking("cohere-v2", tokenizer=str(folder)) as (server, made):
        shorter = Truncation(max_tokens_per_document=9, side=side)
        outcome = await ranked(RerankApiJudge(made), texts, truncation=shorter)
    counter = load_tokens(str(folder))
    [call] = server.calls
    assert outcome.ledger.total().truncated_documents == 1
    for text, whole in zip(sent(call.body), texts, strict=True):
        assert counter.count(text) <= 9
        assert whole.startswith(text) if side is Side.END else whole.endswith(text)
        assert text == whole or counter.count(whole) > 9


async def test_an_empty_text_and_half_a_character_can_be_sent() -> None:
    async with talking("tei") as (server, made):
        outcome = await ranked(RerankApiJudge(made), ["", "\ud800 half", "whole"])
    assert sent(server.calls[0].body) == [" ", "? half", "whole"]
    assert len(outcome.order) == 3


# --- failures -----------------------------------------------------------------------------------------------------


async def test_retry_after_is_kept_and_every_attempt_is_on_the_bill(virtual: VirtualTime) -> None:
    first = (naughty.status(429, {"retry-after": "7"}), naughty.status(503), naughty.body(b"[]", code=424))
    async with talking("jina", *first, clock=virtual.clock, sleep=virtual.sleep, random_s=lambda _: 0.0) as (
        server,
        made,
    ):
        outcome = await ranked(RerankApiJudge(made, prices=Prices(usd_per_call=1e-9)), TEXTS[:3])
    assert max(virtual.slept) == 7.0
    total = outcome.ledger.total()
    assert (total.calls, total.retries, total.pairs, total.cost_nano_usd) == (4, 3, 3, 4)
    assert total.prompt_tokens == tokens(server.calls[-1].body), "a refusal bills no tokens"
    assert total.queue_s >= 7.0


async def test_a_busy_endpoint_is_given_up_in_the_end(virtual: VirtualTime) -> None:
    async with endpoint("jina", *[naughty.status(429)] * 9) as server:
        time_ = {"clock": virtual.clock, "sleep": virtual.sleep}
        async with api("jina", root(server), limits={"attempts_max": 3}, **time_) as made:
            with pytest.raises(BackendDown, match=r"answered 429.*after 3 of at most 3 attempts"):
                await ranked(RerankApiJudge(made), TEXTS[:3])
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (400, "answered 400: no"),
        (401, "put a key that is good for it into the environment variable SOME_KEY"),
        (402, "nothing left to spend"),
        (404, "is 'a-model' the model's name there, and 'jina' its dialect"),
        (413, r"models\.m\.documents is 1000, lower it"),
        (422, "answered 422: no"),
        (498, "put a key"),
        (307, "answered 307"),
    ],
)
async def test_a_refusal_is_told_once_with_what_to_do(status: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "sesame-street")
    async with talking("jina", naughty.status(status, message="no: sesame-street"), key_env="SOME_KEY") as (
        server,
        made,
    ):
        with pytest.raises(BackendRefused, match=told) as caught:
            await ranked(RerankApiJudge(made), TEXTS[:3])
    assert "sesame" not in str(caught.value)
    assert [call.headers["authorization"] for call in server.calls] == ["Bearer sesame-street"]


MISREAD = {
    "missing": {"results": results([0.1, 0.2])},
    "twice": {"results": results([0.1, 0.2, 0.3]) + results([0.1])},
    "foreign": {"results": results([0.1, 0.2, 0.3, 0.4])},
    "no number": {"results": results([0.1, 0.2, None])},
    "not a number": {"results": results([0.1, 0.2, float("nan")])},
    "no list": {"results": {"0": 0.1}},
    "an error with the status 200": {"message": "internal"},
}


@pytest.mark.parametrize("what", MISREAD)
async def test_a_reply_that_is_no_answer_is_counted_and_asked_for_again(what: str, virtual: VirtualTime) -> None:
    body = {**MISREAD[what], "usage": {"total_tokens": 11}}
    async with endpoint("jina", *[naughty.body(json.dumps(body).encode())] * 3) as server:
        time_ = {"clock": virtual.clock, "sleep": virtual.sleep}
        async with api("jina", root(server), limits={"attempts_max": 2}, **time_) as made:
            sink = Collected()
            with pytest.raises(UnreadableReply, match=r"http://.*/v1/rerank sent .*after 2 of at most 2"):
                await RerankApiJudge(made, prices=Prices(prompt_usd_per_mtok=1.0)).rule(*case(TEXTS[:3]), sink)
            assert (sink.in_vain.calls, sink.in_vain.prompt_tokens) == (2, 22)
            assert (dict(sink.in_vain.repairs), sink.in_vain.cost_nano_usd) == ({"unreadable": 2}, 22_000)
            outcome = await ranked(RerankApiJudge(made), TEXTS[:3])
    assert dict(outcome.ledger.total().repairs) == {"unreadable": 1}
    assert outcome.ledger.total().retries == 1
    assert outcome.completion is Completion.COMPLETE


@pytest.mark.parametrize(
    "behaviour",
    [
        naughty.html(),
        naughty.truncated_json(),
        naughty.reset_in_mid_body,
        naughty.close_without_a_word,
        naughty.no_http,
    ],
)
async def test_rubbish_and_broken_connections_are_tried_again(
    behaviour: naughty.Behaviour, virtual: VirtualTime
) -> None:
    async with talking("tei", behaviour, clock=virtual.clock, sleep=virtual.sleep) as (_server, made):
        outcome = await ranked(RerankApiJudge(made), TEXTS[:3])
    assert (outcome.ledger.total().calls, outcome.ledger.total().retries) == (2, 1)


async def test_an_endless_reply_is_cut_off() -> None:
    async with talking("tei", naughty.endless, limits={"attempts_max": 1, "reply_bytes_max": 1 << 16}) as (
        _server,
        made,
    ):
        with pytest.raises(BackendDown, match="65536 bytes"):
            await ranked(RerankApiJudge(made), TEXTS[:3])


async def test_another_endpoint_takes_the_calls_of_one_that_is_down() -> None:
    async with endpoint("vllm") as server, api("vllm", "http://127.0.0.1:1", root(server)) as made:
        for _ in range(3):
            outcome = await ranked(RerankApiJudge(made))
            assert outcome.completion is Completion.COMPLETE
    assert len(server.calls) == 3


async def test_a_full_queue_refuses() -> None:
    async with endpoint("jina", naughty.hang) as server:
        limits = {"queue_max": 1}
        async with api("jina", root(server), documents_max=1, limits=limits) as made:
            with pytest.raises(Overloaded, match="the most that queue_max allows"):
                await RerankApiJudge(made).rule(*case(), Collected())
            await until(lambda: server.under_way == 0)


# --- deadlines and cancellation -----------------------------------------------------------------------------------


async def test_the_deadline_reaches_the_endpoint() -> None:
    async with talking("cohere-v2", naughty.hang) as (server, made):
        with pytest.raises(DeadlineExceeded, match="gave no answer before the deadline"):
            await RerankApiJudge(made).rule(*case(deadline_at=time.monotonic() + 0.2), Collected())
        await server.someone_left.wait()
        outcome_before = await ranked(RerankApiJudge(made), TEXTS[:4])
    assert outcome_before.completion is Completion.COMPLETE


async def test_a_cancelled_call_closes_its_connection_and_is_still_billed() -> None:
    async with talking("jina", naughty.hang) as (server, made):
        sink = Collected()
        task = asyncio.create_task(RerankApiJudge(made, prices=Prices(usd_per_call=1e-9)).rule(*case(), sink))
        await server.someone_came.wait()
        await until(lambda: server.under_way == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.someone_left.wait()
        assert (sink.in_vain.calls, sink.in_vain.cost_nano_usd, sink.in_vain.pairs) == (1, 1, 0)
        assert sink.in_vain.prompt_tokens > 0
        assert not sink.rulings


async def test_what_had_come_stands_when_another_part_fails() -> None:
    def choose(request: naughty.Request) -> naughty.Behaviour:
        late = any(text.endswith("number 69") for text in sent(request.body))
        return naughty.body(b'{"detail":"no"}', code=400, wait_s=0.2) if late else answering("tei")

    async with talking("tei", choose=choose) as (_server, made):
        sink = Collected()
        with pytest.raises(BackendRefused, match="answered 400: no"):
            await RerankApiJudge(made).rule(*case(), sink)
    assert sorted(sink.rulings) == list(range(64))
    total = sum((ruling.usage for ruling in sink.rulings.values()), sink.in_vain)
    assert (total.calls, total.pairs) == (3, 64)


async def test_a_budget_of_tokens_holds_before_anything_is_sent() -> None:
    async with talking("jina") as (server, made):
        outcome = await ranked(RerankApiJudge(made), budget=Budget(max_tokens=10))
    assert outcome.completion is Completion.PARTIAL_BUDGET
    assert server.calls == []


# --- the configuration --------------------------------------------------------------------------------------------

SAID = """
[models.theirs]
backend = "rerank-api"
dialect = "{dialect}"
base_url = "{url}"
model = "a-model"
prices = {{ usd_per_search_unit = 0.002, version = "2026-11" }}
[pipelines.mixed]
stages = [{{ strategy = "pointwise", model = "minilm", keep = 20 }},
          {{ strategy = "pointwise", model = "theirs", keep = 5 }}]
[pipelines.two-voices]
stages = [{{ strategy = "fusion", of = [{{ strategy = "pointwise", model = "minilm" }},
                                        {{ strategy = "pointwise", model = "theirs" }}] }}]
"""


async def test_a_pipeline_mixes_them_with_stages_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "podium.toml"
    async with endpoint("cohere-v2") as server:
        path.write_text(SAID.format(dialect="cohere-v2", url=root(server)), "utf-8")
        podium = Podium(load(path), data_dir=None)
        try:
            candidates = tuple(Candidate(str(i), text) for i, text in enumerate(TEXTS[:40]))
            outcome = await podium.reranker.rerank(RankRequest(QUERY, candidates, pipeline="mixed"))
            fused = await podium.reranker.rerank(RankRequest(QUERY, candidates, pipeline="two-voices"))
            (card,) = [card for card in podium.models if card.name == "theirs"]
        finally:
            await podium.aclose()
    assert len(sent(server.calls[0].body)) == 20
    best = sorted(outcome.order[:20], key=lambda i: -probability(QUERY, TEXTS[i]))
    assert list(outcome.order[:5]) == best[:5]
    _, theirs = outcome.ledger
    assert (theirs.model, theirs.usage.cost_nano_usd, theirs.usage.search_units) == ("theirs", 2_000_000, 1)
    assert len(sent(server.calls[1].body)) == 40
    assert sorted(fused.order) == list(range(40))
    assert (card.backend, card.ready, card.answers) == ("rerank-api", True, frozenset({Grade}))


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ('dialect = "cohere"\nmodel = "x"', "models.j.dialect"),
        ('dialect = "jina"', "model is not set, and an endpoint that speaks 'jina' is told one"),
        ('dialect = "vllm"\nmodel = "x"', "base_url is not set, and 'vllm' is served by whoever runs it"),
        ('dialect = "jina"\nmodel = "x"\ndocumnts = 3', "did you mean 'documents'"),
    ],
)
def test_a_section_that_cannot_be_meant_is_refused(section: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "podium.toml"
    path.write_text(f'[models.j]\nbackend = "rerank-api"\n{section}', "utf-8")
    with pytest.raises(ConfigInvalid, match=told):
        load(path)


@pytest.mark.parametrize(
    ("dialect", "more", "asked_for"),
    [
        ("jina", "", "JINA_API_KEY"),
        ("cohere-v2", "", "CO_API_KEY"),
        ("voyage", 'base_url = "https://api.voyageai.com/v1"\n', "VOYAGE_API_KEY"),
        ("jina", 'base_url = "http://127.0.0.1:1"\n', None),
        ("jina", 'api_key_env = "MINE"\nbase_url = "http://127.0.0.1:1"\n', "MINE"),
    ],
)
def test_the_usual_key_goes_to_its_own_provider_alone(
    dialect: str, more: str, asked_for: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("JINA_API_KEY", "CO_API_KEY", "VOYAGE_API_KEY", "MINE"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "podium.toml"
    said = f'[models.j]\nbackend = "rerank-api"\ndialect = "{dialect}"\nmodel = "x"\n{more}'
    path.write_text(f'{said}[pipelines.p]\nstages = [{{ strategy = "pointwise", model = "j" }}]', "utf-8")
    if asked_for is None:
        Podium(load(path), data_dir=None)
    else:
        with pytest.raises(ConfigInvalid, match=f"the environment variable {asked_for} is not set"):
            Podium(load(path), data_dir=None)


@pytest.mark.parametrize("said", ['prompt = "rank-gpt"', 'scoring = "cosine"', 'long_documents = "best-passage"'])
def test_a_stage_may_not_ask_for_what_an_endpoint_does_not_do(said: str, tmp_path: Path) -> None:
    path = tmp_path / "podium.toml"
    model = '[models.j]\nbackend = "rerank-api"\ndialect = "tei"\nbase_url = "http://127.0.0.1:1"\n'
    path.write_text(f'{model}[pipelines.p]\nstages = [{{ strategy = "pointwise", model = "j", {said} }}]', "utf-8")
    with pytest.raises(PodiumError, match="behind a rerank endpoint"):
        Podium(load(path), data_dir=None)

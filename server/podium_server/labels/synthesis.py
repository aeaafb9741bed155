"""Queries for a corpus that has none: a model writes them, and those that lead back to their document are kept.

The round trip is the consistency filter of Promptagator (arXiv 2209.11755): a query whose own document recall does not
find among the first k is too general, or about something else, and teaches nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from podium_server import validate
from podium_server.accounting.ledger import Account, Ledger
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatBackend, ChatCall, ChatFailure, Message
from podium_server.errors import PodiumError
from podium_server.jobs.lists import CandidateList
from podium_server.jobs.ranking import Answer, Failed
from podium_server.jobs.results import OUT
from podium_server.judges.verdict_cache import VerdictCache
from podium_server.labels.made import Bill, Bills, Made, MadeResults, made
from podium_server.labels.query_prompt import QUERIES_MAX, WRITE_QUERIES, Example, QueryPrompt
from podium_server.limits import Limits
from podium_server.recall.retriever import RETRIEVERS, Recalled, RecallQuery
from podium_strategies.permutation import shuffled
from podium_strategies.prompts.prompt import Repair, UnreadableReply

STAGE = "write-queries"
NO_QUERY = "NO_QUERY"


class Recall(Protocol):
    """What the round trip needs of a store."""

    async def retrieve(self, query: RecallQuery) -> Recalled:
        """Return the best documents for a query."""


@dataclass(frozen=True, slots=True)
class SynthesisSettings:
    """How queries are written and filtered.

    Args:
        collection: that the documents are in.
        queries: of each document.
        recalled_within: a query is kept if recall finds its document at this rank or above.
        temperature: of the writing: 0 takes the likeliest token.
        seed: of the writing, and of the choice of examples.
        examples: that may be shown.
        examples_shown: of these, to each document, chosen by the seed and the document.
        min_words: shorter documents are passed over: there is nothing to ask about them.
        weights: of the retrievers.

    """

    collection: str
    queries: int = 3
    recalled_within: int = 10
    temperature: float = 0.7
    seed: int = 0
    examples: tuple[Example, ...] = ()
    examples_shown: int = 3
    min_words: int = 8
    weights: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(RETRIEVERS, 1.0))

    def __post_init__(self) -> None:
        if not 1 <= self.queries <= QUERIES_MAX:
            raise ValueError(f"queries is {self.queries}: 1 to {QUERIES_MAX}")
        if self.recalled_within < 1:
            raise ValueError(f"recalled_within is {self.recalled_within}: at least 1")
        if not 0 <= self.temperature <= 2:
            raise ValueError(f"temperature is {self.temperature}: 0 to 2")
        if self.examples_shown < 0 or self.min_words < 1:
            raise ValueError(
                f"examples_shown is {self.examples_shown} (0 or more), min_words {self.min_words} (1 or more)"
            )


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote for one document."""

    queries: tuple[str, ...]
    repair: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class Synthesist:
    """Writes queries for one document at a time; many calls run side by side. The list given holds the document.

    Args:
        backend: that writes.
        recall: of the round trip.
        settings: of both.
        limits: of a query.
        provenance: what every pair tells of its making.
        price_table_version: of the model's prices.
        cache: of what was written; None asks every time.
        prompt: that asks.

    """

    backend: ChatBackend
    recall: Recall
    settings: SynthesisSettings
    limits: Limits
    provenance: Mapping[str, Any] = field(default_factory=dict)
    price_table_version: str = ""
    cache: VerdictCache | None = None
    prompt: QueryPrompt = WRITE_QUERIES
    _bills: Bills = field(init=False, default_factory=Bills, compare=False, repr=False)

    async def rank(self, given: CandidateList) -> Answer:
        """Return the pairs of a document, or the error in their place."""
        with self._bills.item() as bill:
            try:
                return await self._made(given, bill)
            except PodiumError as error:
                return bill.failed(given, error)

    def unfinished(self) -> Ledger:
        """Return what was spent on documents that have no answer."""
        return self._bills.unfinished()

    async def _made(self, given: CandidateList, bill: Bill) -> Made | Failed:
        cleaned, _ = validate.columns(given.ids, given.texts, given.prior_scores, self.limits)
        text = cleaned[0].text
        if len(text.split()) < self.settings.min_words:
            return made(given, (), {"documents": 1, f"shorter than {self.settings.min_words} words": 1}, bill)
        account = self._account(bill)
        try:
            written = await self._written(given.ids[0], text, account)
        except UnreadableReply as error:
            return Failed(given.line, given.qid, NO_QUERY, str(error), bill.total(), given.seal)
        account.candidates_out = len(written.queries)
        lines = []
        for number, query in enumerate(written.queries):
            rank = await self._round_trip(query, given.ids[0])
            if rank is not None:
                lines.append(self._line(given, text, query, number, rank))
        counts = {
            "documents": 1,
            "written": len(written.queries),
            "malformed replies": int(written.repair != Repair.OK.value),
            "not recalled": len(written.queries) - len(lines),
        }
        return made(given, tuple(lines), counts, bill)

    def _account(self, bill: Bill) -> Account:
        ledger = Ledger()
        bill.opened(ledger)
        return ledger.open(
            Account(
                stage=STAGE,
                strategy=STAGE,
                model=self.backend.name,
                revision=self.backend.revision,
                prompt_id=self.prompt.id,
                price_table_version=self.price_table_version,
                candidates_in=1,
            )
        )

    def _line(self, given: CandidateList, text: str, query: str, number: int, rank: int) -> dict[str, Any]:
        return {
            "qid": f"{given.docids[0]}#{number + 1}",
            "query": query,
            "positive": text,
            "docid": given.docids[0],
            "rank": rank,
            "provenance": {**self.provenance, "revision": self.backend.revision},
        }

    # --- writing ----------------------------------------------------------------------------------------------

    async def _written(self, name: str, text: str, account: Account) -> Written:
        """Return what the model writes for a document, or wrote before.

        Raises:
            UnreadableReply: no query; it is on the account.

        """
        began = perf_counter()
        account.questions, account.rounds = 1, 1
        call, truncated = await self._call(name, text)
        key = self._key(call)
        known = self.cache.get(key) if self.cache is not None else None
        if known is not None:
            queries, repair = known
            account.add(Usage(cache_hits=1))
            return Written(tuple(queries), repair, account.usage)
        try:
            reply = await self.backend.complete(call, on_cancel=account.add)
        except ChatFailure as failure:
            account.add(failure.usage)
            raise failure.cause from failure
        account.add(reply.usage + Usage(truncated_documents=int(truncated)))
        account.wall_s = perf_counter() - began
        try:
            reading = self.prompt.read(reply.text, self.settings.queries)
        except UnreadableReply:
            account.add(Usage(repairs={Repair.UNREADABLE.value: 1}))
            raise
        account.add(Usage(repairs={reading.repair.value: 1}))
        if self.cache is not None:
            self.cache.put(key, list(reading.answer), reading.repair.value)
        return Written(reading.answer, reading.repair.value, account.usage)

    async def _call(self, name: str, text: str) -> tuple[ChatCall, bool]:
        settings = self.settings
        able = await self.backend.capabilities()
        shown, cut = self.prompt.prepare(text)
        n = settings.queries
        bound = self.prompt.max_output_tokens(n)
        examples = self._examples(name)
        if self.backend.context_tokens is not None:
            frame = self.prompt.render("", n, examples)
            around = sum(self.backend.count_tokens(turn.content) + 8 for turn in frame)
            room = max(1, self.backend.context_tokens - bound - around)
            shown, shortened = self.backend.shorten(shown, room)
            cut = cut or shortened
        turns = self.prompt.render(shown, n, examples)
        call = ChatCall(
            messages=tuple(Message(turn.role, turn.content) for turn in turns),
            max_output_tokens=bound,
            temperature=settings.temperature,
            seed=settings.seed if settings.temperature > 0 else None,
        )
        return (replace(call, schema=self.prompt.schema(n)) if Capability.JSON_SCHEMA in able else call), cut

    def _examples(self, name: str) -> Sequence[Example]:
        settings = self.settings
        lots = shuffled(range(len(settings.examples)), settings.seed, _number(name))
        return [settings.examples[lot] for lot in lots[: settings.examples_shown]]

    def _key(self, call: ChatCall) -> bytes:
        digest = blake2b(digest_size=32, person=b"podium-queries")
        who = (self.backend.name, self.backend.revision, self.backend.variant, self.prompt.id, self.prompt.digest)
        rest = (call.max_output_tokens, call.temperature, call.seed, call.schema, self.settings.queries)
        for part in (*map(str, who), repr(rest), *(message.content for message in call.messages)):
            raw = part.encode("utf-8", "surrogatepass")
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
        return digest.digest()

    # --- the round trip ---------------------------------------------------------------------------------------

    async def _round_trip(self, query: str, docid: str) -> int | None:
        """Return the rank at which recall finds a query's own document; None where it does not."""
        settings = self.settings
        text = validate.query(query, self.limits)
        recalled = await self.recall.retrieve(
            RecallQuery(settings.collection, text, k=settings.recalled_within, weights=settings.weights)
        )
        return next((rank for rank, hit in enumerate(recalled.hits, start=1) if hit.id == docid), None)


@dataclass(slots=True)
class PairResults(MadeResults):
    """Writes pairs, each query once in the whole corpus: the first document that it was written for has it."""

    seen: set[int] = field(default_factory=set)
    """Hashes of the queries written so far, 8 bytes each: a million take about 60 MB."""

    def go_on(self, kept: Mapping[str, Any]) -> None:
        """Take the counts of an earlier run, and the queries that it wrote."""
        MadeResults.go_on(self, kept)
        if self.outputs.resumed:
            with Path(self.outputs.written_to(OUT)).open("rb") as written:
                self.seen.update(query_hash(json.loads(line)["query"]) for line in written)

    def lines(self, answer: Any) -> tuple[Mapping[str, Any], ...]:
        """Return the lines whose query is new."""
        fresh = []
        twice = 0
        for line in MadeResults.lines(self, answer):
            number = query_hash(line["query"])
            if number in self.seen:
                twice += 1
            else:
                self.seen.add(number)
                fresh.append(line)
        if isinstance(answer, Made):
            for name, more in (("written before", twice), ("pairs", len(fresh))):
                self.counts[name] = self.counts.get(name, 0) + more
        return tuple(fresh)


def query_hash(query: str) -> int:
    """Return a number that is equal for queries which differ in case, white space and punctuation alone."""
    words = re.findall(r"\w+", query.casefold())
    return int.from_bytes(blake2b(" ".join(words).encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _number(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=15).digest(), "little")


def document_of(row: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """Return a document as a list of one candidate, from the forms in which `podium index` reads it."""
    name = next((row[key] for key in ("id", "docid", "_id") if row.get(key) not in (None, "")), f"line-{number}")
    fields = row.get("fields")
    if isinstance(fields, Mapping):
        text: Any = "\n".join(str(part) for part in fields.values())
    else:
        text = row.get("text")
        title = row.get("title")
        if isinstance(text, str) and isinstance(title, str) and title:
            text = f"{title}\n{text}"
    return {"qid": name, "query": "-", "candidates": [{"docid": name, "text": text}]}

"""Whatever is done to a collection, it holds what a dictionary would hold, and finds what comparing all would find."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from podium_server.recall.document import Document
from podium_server.recall.engine import Engine, new_stream
from podium_server.recall.filters import Equals
from podium_server.recall.limits import RecallLimits
from podium_server.recall.retriever import RecallQuery
from podium_server.recall.text import query_terms, words
from podium_server.recall.vectors import VectorSettings
from tests.recall.conftest import SETTINGS
from tests.recall.toy import ToyEncoder, quantize

KEYS = st.sampled_from([f"k{i}" for i in range(12)])
TEXTS = st.lists(
    st.sampled_from(["fox", "foxes", "whale", "狐狸", "京", "x1", "the", "Größe"]), min_size=1, max_size=5
).map(" ".join)
COLOURS = st.sampled_from(["red", "blue"])
# So small that indexes, graphs and clearings happen all the time.
TINY = VectorSettings(plain_rows=4, exact_up_to=10, dead_share=0.3, build_effort=40)


class CollectionModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.encoder = ToyEncoder()
        self.model: dict[str, tuple[str, str]] = {}
        self.open()
        self.engine.create("c", SETTINGS)

    def open(self) -> None:
        self.engine = Engine(self.directory, lambda _: self.encoder, RecallLimits(), TINY, quantize)

    def teardown(self) -> None:
        self.engine.close()
        shutil.rmtree(self.directory)

    @rule(batch=st.lists(st.tuples(KEYS, TEXTS, COLOURS), min_size=1, max_size=6))
    def upsert(self, batch: list[tuple[str, str, str]]) -> None:
        documents = [Document(key, text, metadata={"colour": colour}) for key, text, colour in batch]
        acknowledged = self.engine.write(self.engine.prepare("c", list(enumerate(documents))), stream=new_stream())
        after = dict(self.model)
        for key, text, colour in batch:
            after[key] = (text, colour)
        touched = {key for key, _, _ in batch}
        assert set(acknowledged.inserted) == touched - set(self.model)
        assert set(acknowledged.replaced) == {k for k in touched & set(self.model) if self.model[k] != after[k]}
        assert set(acknowledged.unchanged) == {k for k in touched & set(self.model) if self.model[k] == after[k]}
        assert acknowledged.duplicates == len(batch) - len(touched)
        self.model = after

    @rule(keys=st.lists(KEYS, min_size=1, max_size=4))
    def delete(self, keys: list[str]) -> None:
        deleted, missing = self.engine.delete_documents("c", keys)
        assert deleted == len(set(keys) & set(self.model))
        assert set(missing) == set(keys) - set(self.model)
        for key in keys:
            self.model.pop(key, None)

    @rule()
    def settle(self) -> None:
        self.engine.settle("c")

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.open()

    @rule()
    def lose_the_index_file(self) -> None:
        self.engine.close()
        shutil.rmtree(self.directory / "indexes", ignore_errors=True)
        self.open()

    @precondition(lambda self: self.model)
    @rule(text=TEXTS, k=st.integers(1, 15), colour=st.none() | COLOURS)
    def search(self, text: str, k: int, colour: str | None) -> None:
        filter_ = Equals("colour", colour) if colour else None
        allowed = {key: text for key, (text, its) in self.model.items() if colour in (None, its)}
        query = self.encoder.encode_queries([text]).vectors[0]
        exact = {key: float(self.encoder.encode_queries([its]).vectors[0] @ query) for key, its in allowed.items()}
        hits = self.engine.search(RecallQuery("c", text, k, {"vector": 1.0}, filter_)).hits
        assert len(hits) == min(k, len(allowed))
        np.testing.assert_allclose(
            [hit.score for hit in hits], sorted(exact.values(), reverse=True)[: len(hits)], atol=1e-5
        )
        assert all(abs(hit.score - exact[hit.id]) < 1e-5 for hit in hits)

        terms = set(query_terms(text).tolist())
        matching = {
            key for key, its in allowed.items() if terms & set(query_terms(its).tolist()) or _letters(text, its)
        }
        hits = self.engine.search(RecallQuery("c", text, 1000, {"bm25": 1.0}, filter_)).hits
        assert {hit.id for hit in hits} == matching
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        both = self.engine.search(RecallQuery("c", text, 1000, filter=filter_)).hits
        assert {hit.id for hit in both} == set(allowed)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        found, missing = self.engine.get_documents("c", [f"k{i}" for i in range(12)])
        assert {document.id: (document.text, document.metadata["colour"]) for document in found} == self.model
        assert len(found) + len(missing) == 12
        stats = self.engine.stats("c")
        assert stats.documents == stats.passages == len(self.model)


def _letters(query: str, text: str) -> bool:
    """Whether a query's single letter of an unspaced script stands in a text."""
    return bool(set(words(query, query=True)) & set(words(text)))


CollectionModel.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCollectionModel = CollectionModel.TestCase

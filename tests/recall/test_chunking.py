from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.recall.chunking import Chunker, estimated_spans
from podium_server.recall.document import Document

TEXTS = st.lists(
    st.sampled_from(["word ", "Longerword", "end. ", "\n", "北京大学", "。", " ", "x1 "]), max_size=120
).map("".join)


@given(TEXTS.filter(str.strip), st.sampled_from(["", "A title", "t " * 40]), st.integers(8, 40), st.integers(0, 3))
def test_passages_cover_the_text_and_fit(text: str, title: str, max_tokens: int, overlap: int) -> None:
    document = Document("d", fields=(("title", title), ("body", text)))
    chunker = Chunker(max_tokens, overlap, estimated_spans)
    passages = chunker.passages(document)
    covered = {place for passage in passages for place in range(passage.start, passage.end)}
    full = document.full_text
    body_at = passages[0].start
    assert body_at in (0, len(title) + 1)
    assert all(full[place].isspace() for place in range(body_at, len(full)) if place not in covered)
    assert [passage.start for passage in passages] == sorted({passage.start for passage in passages})
    for passage in passages:
        assert passage.text
        # One more where the title alone would fill a passage.
        assert len(estimated_spans(passage.text)) <= max_tokens + 1
    assert passages[0].whole == (len(passages) == 1 and passages[0].end == len(full) and passages[0].start == 0)


def test_a_short_document_is_one_passage_and_is_all_of_it() -> None:
    (only,) = Chunker(50, 5, estimated_spans).passages(Document("d", "One short text."))
    assert (only.start, only.end, only.text, only.whole) == (0, 15, "One short text.", True)


def test_passages_end_with_sentences_overlap_and_carry_the_title() -> None:
    body = " ".join(f"Sentence number {i} ends here." for i in range(20))
    passages = Chunker(40, 8, estimated_spans).passages(Document("d", fields=(("title", "Tides"), ("body", body))))
    assert len(passages) > 3
    assert all(passage.text.startswith("Tides\n") for passage in passages)
    assert all(passage.text.endswith("here.") for passage in passages)
    assert all(after.start < before.end for before, after in pairwise(passages))


def test_a_word_of_five_megabytes_ends() -> None:
    passages = Chunker(256, 32, estimated_spans).passages(Document("d", "x" * 500_000))
    assert passages[-1].end == 500_000


def test_an_overlap_of_half_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap_tokens 20"):
        Chunker(40, 20, estimated_spans)

"""What a step sees: each query once an epoch, the same for the same seed, within its strata."""

from __future__ import annotations

from collections import Counter
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_server.training.draws import Stream, target_of
from podium_server.training.examples import Document, Example
from podium_server.training.recipe import Data, Negatives, Target


def ranked(size: int, *, others: int = 0, query: str = "q") -> Example:
    documents = tuple(Document(f"{query} {rank}", rank=rank) for rank in range(1, size + 1))
    return Example(query, documents, tuple(f"other {i}" for i in range(others)))


@given(
    queries=st.floats(0.1, 5),
    examples=st.integers(1, 12),
    steps=st.integers(1, 30),
    seed=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_every_query_comes_once_before_any_comes_again(queries: float, examples: int, steps: int, seed: int) -> None:
    stream = Stream(Data(path="a", queries=queries), [ranked(3, query=f"q{i}") for i in range(examples)], str(seed))
    seen = [drawn.query for step in range(steps) for drawn in stream.of_step(step)]
    assert len(seen) == int(steps * queries) or abs(len(seen) - steps * queries) < 1
    for start in range(0, len(seen), examples):
        assert max(Counter(seen[start : start + examples]).values(), default=1) == 1


@given(st.integers(0, 50), st.integers(2, 20), st.integers(2, 40), st.integers(0, 3), st.integers(0, 4))
@settings(max_examples=100, deadline=None)
def test_a_draw_is_a_function_of_seed_and_number(k: int, room: int, size: int, unranked: int, others: int) -> None:
    data = Data(path="a", documents=room, unranked=min(unranked, room - 1), top=((5, 0.5), (10, 0.25)))
    examples = [ranked(size, others=others, query=f"q{i}") for i in range(5)]
    one, other = (Stream(data, examples, "7").draw(k) for _ in range(2))
    assert one == other
    assert len(set(one.texts)) == len(one.texts) == len(one.targets)
    assert len(one.texts) <= room
    if size + min(others, data.unranked) >= room:
        assert len(one.texts) >= min(room, size)


def test_strata_get_their_shares() -> None:
    data = Data(path="a", documents=20, top=((15, 0.35), (45, 0.30)))
    drawn = Stream(data, [ranked(100)], "0").draw(0)
    ranks = [int(text.split()[1]) for text in drawn.texts]
    assert [sum(low <= rank <= high for rank in ranks) for low, high in ((1, 15), (16, 45), (46, 100))] == [7, 6, 7]


def test_labels_bound_the_share_of_positives() -> None:
    documents = tuple(Document(str(i), label=float(i < 10)) for i in range(30))
    drawn = Stream(Data(path="a", documents=9, positives=0.34), [Example("q", documents)], "0").draw(0)
    assert sum(target > 0 for target in drawn.targets) == 3
    assert set(drawn.targets) == {0.0, 4.0}


def test_targets_add_up() -> None:
    document = Document("x", rank=4, human=3.0, label=2.0, score=0.5)
    target = Target(rank=1.0, human=0.5, label=2.0, score=10.0)
    assert target_of(document, target) == pytest.approx(-log(4) + 0.5 * 2 + 2 * 2 + 10 * 0.5)
    assert target_of(document, Target(label=3.0, binary=True)) == 3.0
    assert target_of(Document("x"), target) == 0.0


def test_what_the_teacher_left_out_stands_below_its_last() -> None:
    data = Data(path="a", documents=6, unranked=2, target=Target(rank=1.0, human=0.5, unranked_rank=150))
    drawn = Stream(data, [ranked(10, others=5)], "0").draw(0)
    assert drawn.targets[-2:] == pytest.approx([-log(150) - 0.5] * 2)
    assert all(text.startswith("other") for text in drawn.texts[-2:])
    assert max(drawn.targets[-2:]) < min(drawn.targets[:-2])


def test_a_pair_stands_against_its_negatives_and_others_positives() -> None:
    pairs = [Example(f"q{i}", (Document(f"p{i}", label=1.0),), ("n1", "n2", "n3")) for i in range(6)]
    data = Data(path="a", negatives=Negatives(documents=2, random=1))
    for k in range(20):
        drawn = Stream(data, pairs, "0").draw(k)
        assert drawn.texts[0] == "p" + drawn.query[1:]
        assert drawn.targets[0] == 5.0
        assert set(drawn.targets[1:]) <= {0.0}
        assert set(drawn.texts[1:3]) <= {"n1", "n2", "n3"}
        assert drawn.texts.count(drawn.texts[0]) == 1

import json
import sqlite3
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_server.errors import InvalidRequest
from podium_server.recall.filters import And, Equals, Exists, Filter, In, Not, Or, Range, check, condition, matches
from podium_server.recall.limits import RecallLimits

NAMES = ["a", "b", "c d", "é", "'; DROP TABLE t --", "$", "[0]", "*"]
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)
NUMBERS = st.one_of(
    st.integers(-5, 5), st.sampled_from([0.0, 0.5, 2.0, -1.5, 0.1, 1e300]), st.integers(-(2**53), 2**53)
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, st.sampled_from(["", "x", "y", "1", "true"]), TEXTS)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
    max_leaves=6,
)
METADATA = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4)
KEYS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(".".join)


@st.composite
def ranges(draw: st.DrawFn) -> Range:
    ends = draw(st.sampled_from([NUMBERS, st.sampled_from(["", "a", "x", "z"])]))
    lower = draw(st.sampled_from(["gt", "gte"]))
    upper = draw(st.sampled_from(["lt", "lte"]))
    sides = draw(st.sampled_from([(lower,), (upper,), (lower, upper)]))
    return Range(draw(KEYS), **{side: draw(ends) for side in sides})


FILTERS: st.SearchStrategy[Filter] = st.recursive(
    st.builds(Equals, KEYS, SCALARS)
    | st.builds(In, KEYS, st.lists(SCALARS, min_size=1, max_size=4).map(tuple))
    | st.builds(Exists, KEYS)
    | ranges(),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, max_size=3).map(tuple))
    ),
    max_leaves=5,
)


@given(FILTERS, st.lists(METADATA, max_size=5))
def test_sql_means_what_python_means(filter_: Filter, all_metadata: list[dict[str, Any]]) -> None:
    check(filter_, RecallLimits())
    database = sqlite3.connect(":memory:")
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, metadata TEXT)")
    database.executemany(
        "INSERT INTO t VALUES (?, ?)",
        [(place, json.dumps(metadata, ensure_ascii=False)) for place, metadata in enumerate(all_metadata)],
    )
    sql, parameters = condition(filter_, "metadata")
    found = [row[0] for row in database.execute(f"SELECT id FROM t WHERE {sql} ORDER BY id", parameters)]
    assert found == [place for place, metadata in enumerate(all_metadata) if matches(filter_, metadata)]


@pytest.mark.parametrize(
    ("filter_", "metadata", "expected"),
    [
        (Equals("author.name", "Ada"), {"author": {"name": "Ada"}}, True),
        (Equals("tags", "x"), {"tags": ["y", "x"]}, True),
        (Equals("n", 1), {"n": True}, False),
        (Equals("n", 1), {"n": 1.0}, True),
        (Equals("n", None), {}, False),
        (Equals("n", None), {"n": None}, True),
        (Not(Equals("n", 1)), {}, True),
        (Exists("n"), {"n": None}, True),
        (Range("day", gte="2024-01-01", lt="2025-01-01"), {"day": "2024-06-30"}, True),
        (Range("n", gt=1), {"n": "2"}, False),
        (Equals("a", "x"), {"a": {"b": "x"}}, False),
    ],
)
def test_meaning(filter_: Filter, metadata: dict[str, Any], expected: bool) -> None:
    assert matches(filter_, metadata) is expected


@pytest.mark.parametrize(
    ("filter_", "field"),
    [
        (Equals("", 1), "filter.key"),
        (Equals("a..b", 1), "filter.key"),
        (Equals('a"b', 1), "filter.key"),
        (Equals("k" * 257, 1), "filter.key"),
        (Equals("a", float("nan")), "filter.value"),
        (Equals("a", 1 << 63), "filter.value"),
        (Equals("a", "\0"), "filter.value"),
        (In("a", ()), "filter.values"),
        (Range("a"), "filter"),
        (Range("a", gt=1, gte=2), "filter"),
        (Range("a", gt=1, lt="x"), "filter"),
        (Range("a", gt=True), "filter"),
        (And((Equals("a", 1), Not(Equals("", 1)))), "filter.filters[1].negation.key"),
        (Or(tuple(Equals("a", i) for i in range(300))), "filter"),
    ],
)
def test_refused(filter_: Filter, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        check(filter_, RecallLimits())
    assert refused.value.field == field


def test_too_deep_is_refused() -> None:
    deep: Filter = Equals("a", 1)
    for _ in range(16):
        deep = Not(deep)
    with pytest.raises(InvalidRequest, match="deeper than 16"):
        check(deep, RecallLimits())

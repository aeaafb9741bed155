"""Labels that nobody made, for laws."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st

from podium_server.labels.agreement import agreement
from podium_server.labels.format import Label, LabelledDocument, Teacher, TeacherStage, Verdict

UNHURRIED = settings(deadline=None)
"""For laws: a machine that has other work says nothing about them."""

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NAME = st.one_of(st.integers(-5, 10**12), TEXT.filter(bool))
SCORE = st.floats(-1e6, 1e6, allow_nan=False)
PLAIN = st.recursive(st.none() | st.booleans() | st.integers() | TEXT, lambda inner: st.lists(inner, max_size=2))


def orders(n: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.permutations(range(n)).map(tuple)


@st.composite
def labels(draw: st.DrawFn, *, min_size: int = 0, max_size: int = 8, texts: bool = True) -> Label:
    n = draw(st.integers(min_size, max_size))
    docids = draw(st.lists(NAME, min_size=n, max_size=n, unique_by=str))
    documents = tuple(
        LabelledDocument(docid, draw(TEXT) if texts else None, draw(st.none() | SCORE)) for docid in docids
    )
    scores = draw(st.just(()) | st.lists(st.none() | SCORE, min_size=n, max_size=n).map(tuple)) if n else ()
    runs = draw(st.lists(orders(n), min_size=2, max_size=4)) if draw(st.booleans()) else []
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b]
    verdicts = draw(
        st.lists(
            st.builds(lambda pair, p: Verdict(*pair, p), st.sampled_from(pairs), st.floats(0, 1)),
            max_size=6,
            unique_by=lambda one: (one.first, one.second),
        )
        if pairs
        else st.just([])
    )
    stage = st.builds(
        TeacherStage, TEXT, TEXT, st.dictionaries(TEXT, PLAIN, max_size=2), TEXT, TEXT, TEXT, TEXT, TEXT,
        st.dictionaries(TEXT, PLAIN, max_size=2),
    )  # fmt: skip
    return Label(
        qid=draw(NAME),
        query=draw(TEXT),
        documents=documents,
        order=draw(orders(n)),
        scores=scores,
        score_kind=draw(st.sampled_from(["logit", "probability"])) if scores else "",
        agreement=agreement(runs, top=draw(st.integers(1, 5))) if runs else None,
        verdicts=tuple(verdicts),
        teacher=Teacher(draw(TEXT), tuple(draw(st.lists(stage, max_size=2))), draw(st.integers()), podium="0"),
        questions=draw(st.integers(0, 99)),
        rounds=draw(st.integers(0, 99)),
        repaired=draw(st.integers(0, 9)),
    )

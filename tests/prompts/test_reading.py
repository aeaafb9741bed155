"""Replies as models really write them."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from podium_strategies.plan import Grade, Order, Pick, Prefer
from podium_strategies.prompts import ids, load
from podium_strategies.prompts.file import prompt_of
from podium_strategies.prompts.prompt import Prompt, Reading, Reads, Repair, Sheet, UnreadableReply
from podium_strategies.prompts.reading import read_array, read_letter, read_letters, read_numbers, read_score
from podium_strategies.prompts.text import split_thought, without_thinking

OK, REPETITION, MISSING, WRONG = Repair.OK, Repair.REPETITION, Repair.MISSING, Repair.WRONG_FORMAT


@pytest.mark.parametrize(
    ("reply", "answer", "repair", "surplus"),
    [
        ("[2] > [1] > [3]", (1, 0, 2), OK, False),
        ("2] > [1] > [3]", (1, 0, 2), OK, False),
        ("100% of the passages should be included. [1] > [3] > [2]", (0, 2, 1), OK, True),
        ("100% of the passages should be included. [1] > [3]", (0, 2), WRONG, True),
        ("611 > [2] > [3]", (1, 2), WRONG, True),
        ("1. [1] > 2. [3] > 3. [2]", (0, 1, 2), OK, True),
        ("[3] > [3] > [1]", (2, 0), REPETITION, True),
        ("[3] > [1] > [2] > [3]", (2, 0, 1), OK, True),
        ("[3] > [1", (2, 0), MISSING, False),
        ("[3] and [1], I think", (2, 0), WRONG, False),
        ("<think>[1] > [2] > [3]</think>[3] > [2] > [1]", (2, 1, 0), OK, False),
        ("I thought.</think>[3] > [2] > [1]", (2, 1, 0), OK, False),
        ("[٣] > [١] > [٢]", (2, 0, 1), OK, False),
        ("根据相关性排序：[2] > [3] > [1]", (1, 2, 0), OK, False),
        (f"{'9' * 5000} [2]", (1,), WRONG, True),
    ],
)
def test_numbers(reply: str, answer: tuple[int, ...], repair: Repair, surplus: bool) -> None:
    assert read_numbers(reply, 3, 3) == Reading(answer, repair, surplus)


@pytest.mark.parametrize("reply", ["", "[] > []", "I cannot do that.", "[²]", "0 > 4 > 5", "<think>[1] > [2]"])
def test_nothing_to_read_in_numbers(reply: str) -> None:
    with pytest.raises(UnreadableReply, match="no label of a passage"):
        read_numbers(reply, 3, 3)


@pytest.mark.parametrize(
    ("reply", "answer", "repair"),
    [
        ('{"ranking": [2, 1, 3]}', (1, 0, 2), OK),
        ('```json\n{"ranking": [2, 1, 3]}\n```', (1, 0, 2), OK),
        ('Here you are: {"ranking": ["2", "1", "3"]}. Of 20 words.', (1, 0, 2), OK),
        ("[2, 1, 3]", (1, 0, 2), OK),
        ('{"ranking": [2, 1', (1,), MISSING),  # 1 may be the beginning of 12
        ('{"ranking": [2, 1,', (1, 0), MISSING),
        ('{"draft": [3, 2, 1], "ranking": [2, 1, 3]}', (1, 0, 2), OK),
        ('{"ranking": [2, 2, 2]}', (1,), REPETITION),
        ('{"ranking": [{"id": 2}, {"id": 3}, {"id": 1}]}', (1, 2, 0), OK),
        ("[2] > [1] > [3]", (1, 0, 2), OK),
        ("2 > 1 > 3", (1, 0, 2), OK),
        ("2, 1, 3", (1, 0, 2), OK),
        ("The best are [2, 1].", (1, 0), WRONG),
        ("<think>[1, 2, 3]?</think>[3, 2, 1]", (2, 1, 0), OK),
        ('{"ranking": [2, 1, 3]}' + " " * 1000, (1, 0, 2), OK),
    ],
)
def test_arrays(reply: str, answer: tuple[int, ...], repair: Repair) -> None:
    reading = read_array(reply, 3, 3, key="ranking")
    assert (reading.answer, reading.repair) == (answer, repair)


@pytest.mark.parametrize("reply", ["", "{}", '{"ranking": []}', "All 3 of them.", "[a, b]", '{"ranking": [1', "[[[["])
def test_nothing_to_read_in_arrays(reply: str) -> None:
    with pytest.raises(UnreadableReply):
        read_array(reply, 3, 3, key="ranking")


@pytest.mark.parametrize(
    ("reply", "place", "repair"),
    [
        ("B", 1, OK),
        ("b", 1, OK),
        (" **B**.", 1, OK),
        ("Passage B", 1, OK),
        ("[B]", 1, OK),
        ('{"best": "B"}', 1, OK),
        ("The most relevant is Passage B, I think.", 1, WRONG),
        ("The answer is B because it says so.", 1, WRONG),
        ("Let me see.\nB", 1, WRONG),
    ],
)
def test_letters_chosen(reply: str, place: int, repair: Repair) -> None:
    assert read_letter(reply, 3) == Reading(place, repair)


@pytest.mark.parametrize("reply", ["", "D", "Passage Z", "Both are good.", "I refuse", "Ｂ", "ſ", "K"])
def test_no_letter_chosen(reply: str) -> None:
    with pytest.raises(UnreadableReply):
        read_letter(reply, 3)


def test_letters_ordered() -> None:
    assert read_letters("[B] > [A] > [C]", 3, 3).answer == (1, 0, 2)
    assert read_letters("B > A > C", 3, 3).answer == (1, 0, 2)
    with pytest.raises(UnreadableReply):
        read_letters("A good question, and I am sorry", 3, 3)


@pytest.mark.parametrize(
    ("reply", "score", "repair"),
    [
        ("85", 85.0, OK),
        ("85.5", 85.5, OK),
        ('{"score": 85}', 85.0, OK),
        ("Score: 85", 85.0, OK),
        ("##final score: 3", 3.0, OK),
        ("85/100", 85.0, OK),
        ("The document has 3 parts. Score: 85. There are 7 more.", 85.0, WRONG),
        ("I would say 85 out of it", 85.0, WRONG),
    ],
)
def test_scores(reply: str, score: float, repair: Repair) -> None:
    assert read_score(reply, 0, 100) == Reading(score, repair)


@pytest.mark.parametrize("reply", ["", "-5", "101", "great", "9" * 400])
def test_no_score(reply: str) -> None:
    with pytest.raises(UnreadableReply):
        read_score(reply, 0, 100)


def test_thinking_is_skipped() -> None:
    assert without_thinking("<think>a</think>b") == "b"
    assert without_thinking("a</think>b") == "b"
    assert without_thinking("<think>never done") == ""
    assert without_thinking("plain") == "plain"


@pytest.mark.parametrize(
    ("reply", "said", "thought"),
    [
        ("<think>\na\n</think>\n\nb", "b", "a"),
        ("the template has opened it\n</think>\nb", "b", "the template has opened it"),
        ("<think>a</think>b<think>c</think>d", "d", "abc"),
        ("first <think>a</think> b", "b", "first a"),
        ("a</think><think>never done", "", "anever done"),
        ("Use <think> tags", "Use <think> tags", ""),
        (" plain ", " plain ", ""),
    ],
)
def test_what_is_said_follows_the_last_thought(reply: str, said: str, thought: str) -> None:
    assert split_thought(reply) == (said, thought)


@given(st.lists(st.sampled_from(["<think>", "</think>", " ", "a", "\n"]), max_size=12).map("".join))
def test_a_reply_without_its_thoughts_has_none(reply: str) -> None:
    said, _ = split_thought(reply)
    assert "</think>" not in said
    assert split_thought(said) == (said, "")


# --- any string at all ----------------------------------------------------------------------------------------


def _own(kind: str, **more: object) -> Prompt:
    user = "{query} {documents}"
    return prompt_of({"kind": kind, "user": user, **more}, name=f"own-{kind}", where="test")


TEXT_PROMPTS = [
    *(load(one) for one in ids() if load(one).reads is Reads.TEXT),
    _own("listwise"),
    _own("listwise", identifiers="letters"),
    _own("setwise"),
    _own("setwise", identifiers="numbers"),
    _own("pairwise"),
    _own("pointwise", reads="text"),
]
PIECES = st.sampled_from(
    [
        *(
            "[1]",
            "[20]",
            "[21]",
            "2] > ",
            " > ",
            "[] > []",
            "1. ",
            "A",
            "B",
            "[C]",
            "Passage B",
            "score: ",
            "85",
            "/100",
        ),
        *(
            '{"ranking": [',
            '{"best": [3, 1',
            "]",
            "}",
            ",",
            '"id": 4',
            "```json",
            "<think>",
            "</think>",
            "\n",
            "-",
            ".",
        ),
        *("100% of the passages should be included. ", "9" * 40, "٣", "²", "½", "\x00", "\ud800", "é", "ſ", "K", "ı"),
    ]
)
REPLIES = st.one_of(
    st.text(), st.lists(PIECES, max_size=40).map("".join), st.lists(PIECES | st.text(max_size=3)).map("".join)
)


@pytest.mark.parametrize("prompt", TEXT_PROMPTS, ids=lambda prompt: prompt.id)
@given(reply=REPLIES, n=st.integers(1, 25), top=st.none() | st.integers(1, 25))
@example(reply="[] > []", n=20, top=None)
def test_any_string_is_an_answer_or_unreadable(prompt: Prompt, reply: str, n: int, top: int | None) -> None:
    n = {Grade: 1, Prefer: 2}.get(prompt.kind, n)
    sheet = Sheet("q", ("",) * n, top=top if prompt.kind is Order else None)
    try:
        reading = prompt.read(reply, sheet)
    except UnreadableReply:
        return
    assert reading.repair in (OK, REPETITION, MISSING, WRONG)
    if prompt.kind is Order:
        assert 1 <= len(reading.answer) <= n
        assert len(set(reading.answer)) == len(reading.answer)
        assert set(reading.answer) <= set(range(n))
        # The trained ones know of no top.
        wanted = n if prompt.trained else sheet.wanted
        assert (reading.repair is OK) == (len(reading.answer) >= wanted)
    elif prompt.kind is Pick:
        assert 0 <= reading.answer < n
    elif prompt.kind is Prefer:
        assert reading.answer in (0.0, 1.0)
    else:
        assert 0 <= reading.answer <= 100


@pytest.mark.parametrize(
    "make",
    [
        lambda size: "[" * size,
        lambda size: "{" * size,
        lambda size: " " * size,
        lambda size: "A " * size,
        lambda size: "1" * size,
        lambda size: "1 " * size,
        lambda size: '"' * size,
        lambda size: "score " * size,
        lambda size: "Passage " * size,
        lambda size: "[1," * size,
        lambda size: "A" + " " * size + "!",
        lambda size: "<think>" * size,
        lambda size: '"id"' + " " * size,
        lambda size: "\n" * size,
        lambda size: "score" + '"' * size,
    ],
)
def test_a_long_reply_takes_no_longer_than_its_length(make: Callable[[int], str]) -> None:
    reply = make(50_000)
    for prompt in TEXT_PROMPTS:
        sheet = Sheet("q", ("",) * (2 if prompt.kind is Prefer else 20))
        started = time.process_time()
        with suppress(UnreadableReply):
            prompt.read(reply, sheet)
        assert time.process_time() - started < 1.0, prompt.id

"""Which prompt was asked: every prompt of ours, and what the other libraries send."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_evals.simulate.knowledge import Unknown
from podium_evals.simulate.recognise import Form, Kind, Said, UnknownPrompt, is_probe, recognise
from podium_server.backends.chat import probe
from podium_strategies import prompts
from podium_strategies.plan import Grade, Order, Pick, Prefer
from podium_strategies.prompts.prompt import Reads, Sheet
from tests.evals.simulated import knowledge, suite

SHOWN = {Grade: (1,), Prefer: (2,), Pick: (2, 3, 9), Order: (1, 2, 3, 20)}
KINDS = {Grade: Kind.GRADE, Prefer: Kind.PREFER, Pick: Kind.PICK, Order: Kind.ORDER}
ASKED = [
    (name, n)
    for name in prompts.ids()
    if prompts.load(name).reads is not Reads.CONTINUATION
    for n in SHOWN[prompts.load(name).kind]
]
KNOWN = knowledge()
TOPIC = suite().topics[1]


def asked(name: str, n: int, *, words: int | None = None, instruction: str = "") -> list[Said]:
    prompt = prompts.load(name)
    texts = [" ".join(passage.text.split()[:words]) for passage in TOPIC.candidates[:n]]
    documents = tuple(prompt.prepare(text, n)[0] for text in texts)
    return [Said(*turn) for turn in prompt.render(Sheet(TOPIC.query, documents, instruction))]


@pytest.mark.parametrize(("name", "n"), ASKED)
def test_every_prompt_of_ours_is_known_with_its_query_and_its_documents(name: str, n: int) -> None:
    prompt = prompts.load(name)
    seen = recognise(asked(name, n))

    # Two answers in one wording: with two documents a setwise question is a pairwise one, and may be answered as one.
    assert seen.prompt == prompt.name or {seen.prompt, prompt.name} == {"setwise-logprobs", "pairwise-logprobs"}
    assert seen.kind is KINDS[prompt.kind] or n == 2
    assert KNOWN.query(seen.query) == TOPIC.qid
    found = [merits.docid for merits in KNOWN.documents(TOPIC.qid, seen.documents)]
    assert found == [passage.docid for passage in TOPIC.candidates[:n]]


@pytest.mark.parametrize("name", ["listwise-json", "yes-no", "setwise-logprobs"])
def test_a_requests_own_instruction_changes_nothing(name: str) -> None:
    n = 1 if name == "yes-no" else 4
    seen = recognise(asked(name, n, instruction="Query: rulings count, opinions do not."))

    assert (seen.prompt, KNOWN.query(seen.query), len(seen.documents)) == (name, TOPIC.qid, n)


@pytest.mark.parametrize("name", ["rank-vicuna", "listwise-json", "setwise"])
def test_documents_are_known_when_they_are_cut(name: str) -> None:
    seen = recognise(asked(name, 9, words=7))

    found = [merits.docid for merits in KNOWN.documents(TOPIC.qid, seen.documents)]
    assert found == [passage.docid for passage in TOPIC.candidates[:9]]


@given(st.integers(0, 29), st.integers(6, 40), st.booleans())
@settings(deadline=None, max_examples=60)
def test_a_beginning_or_an_end_of_a_text_is_enough(place: int, words: int, from_start: bool) -> None:
    passage = TOPIC.candidates[place]
    parts = passage.text.split()
    # What follows "list 1" in a toy passage can be another one's, too: its number must be left in what is cut.
    text = " ".join(parts[-max(words, len(parts) - 2) :] if from_start else parts[:words])

    assert [merits.docid for merits in KNOWN.documents(TOPIC.qid, [text])] == [passage.docid]


def test_twins_are_told_apart_by_being_shown_twice() -> None:
    lists = suite(1, 4)
    (topic,) = lists.topics
    twin = topic.candidates[2]._replace(docid="twin")
    doubled = lists.__class__(
        "twins", (topic.__class__(topic.qid, topic.query, (*topic.candidates, twin)),), lists.qrels
    )
    known = knowledge().__class__(doubled)

    found = known.documents(topic.qid, [twin.text, twin.text])
    assert [merits.docid for merits in found] == [topic.candidates[2].docid, "twin"]


SYSTEM = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query"
PASSAGES = [passage.text for passage in TOPIC.candidates[:3]]
Q = TOPIC.query
NUMBERED = "".join(f"[{i}] {text}\n" for i, text in enumerate(PASSAGES, 1))
LETTERED = "\n\n".join(f'Passage {letter}: "{text}"' for letter, text in zip("ABC", PASSAGES, strict=True))
OTHERS = {
    "rank_llm's rank_zephyr_template": (
        [
            Said("system", SYSTEM),
            Said(
                "user",
                "I will provide you with 3 passages, each indicated by a numerical identifier []. Rank the passages "
                f"based on their relevance to the search query: {Q}.\n{NUMBERED}Search Query: {Q}.\nRank the 3 "
                "passages above based on their relevance to the search query. All the passages should be included and "
                "listed using identifiers, in descending order of relevance. The output format should be [] > [], e.g.,"
                " [2] > [1], Answer concisely and directly and only respond with the ranking results, do not say any "
                "word or explain.",
            ),
        ],
        Kind.ORDER,
        Form.NUMBERS,
    ),
    "rank_llm's rank_gpt_template, rerankers' and llm-rankers' RankGPT": (
        [
            Said(
                "system", "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy."
            ),
            Said(
                "user",
                "I will provide you with 3 passages, each indicated by number identifier [].\nRank the passages based "
                f"on their relevance to query: {Q}.",
            ),
            Said("assistant", "Okay, please provide the passages."),
            *(
                turn
                for i, text in enumerate(PASSAGES, 1)
                for turn in (Said("user", f"[{i}] {text}"), Said("assistant", f"Received passage [{i}]."))
            ),
            Said(
                "user",
                f"Search Query: {Q}.\nRank the 3 passages above based on their relevance to the search query. The "
                "output format should be [] > [], e.g., [1] > [2].",
            ),
        ],
        Kind.ORDER,
        Form.NUMBERS,
    ),
    "rank_llm's rank_lrl_template": (
        [
            Said(
                "user",
                "Sort the list PASSAGES by how good each text answers the QUESTION (in descending order of relevancy)."
                "\n"
                + "".join(f'PASSAGE{i} = "{text}"\n' for i, text in enumerate(PASSAGES, 1))
                + f'QUESTION: "{Q}"\nPASSAGES: [PASSAGE1, PASSAGE2, PASSAGE3]\nSort the PASSAGES by their relevance to '
                "the Query.\nSORTED_PASSAGES = ",
            )
        ],
        Kind.ORDER,
        Form.PASSAGES,
    ),
    "rank_llm's rank_gpt_apeer_template": (
        [
            Said(
                "user",
                f"In response to the query: [querystart] {Q} [queryend], rank the passages.\n{NUMBERED}\nGiven the "
                f"query: [querystart] {Q} [queryend], produce a ranking of all passages using their identifiers. The "
                "format should be [rankstart] [most relevant passage ID] > ... [rankend].",
            )
        ],
        Kind.ORDER,
        Form.NUMBERS,
    ),
    "llm-rankers' setwise over OpenAI": (
        [
            Said(
                "system",
                "You are RankGPT, an intelligent assistant specialized in selecting the most relevant passage.",
            ),
            Said(
                "user",
                f'Given a query "{Q}", which of the following passages is the most relevant one to the query?\n\n'
                f"{LETTERED}\n\nOutput only the passage label of the most relevant passage.",
            ),
        ],
        Kind.PICK,
        Form.LETTER,
    ),
    "anybody's numbered list": (
        [Said("user", f"Please rank these for {Q}:\n{NUMBERED}\nAnswer with numbers.")],
        Kind.ORDER,
        Form.NUMBERS,
    ),
}


@pytest.mark.parametrize("library", OTHERS)
def test_other_libraries_prompts_are_known(library: str) -> None:
    messages, kind, form = OTHERS[library]
    seen = recognise(messages)

    assert (seen.kind, seen.form) == (kind, form)
    assert KNOWN.query(seen.query) == TOPIC.qid
    found = [merits.docid for merits in KNOWN.documents(TOPIC.qid, seen.documents)]
    assert found == [passage.docid for passage in TOPIC.candidates[:3]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Write a poem about rivers.", "no prompt that the simulated judge knows"),
        ("Passage: x\nPlease write a question based on this passage.", "log-probabilities of the prompt"),
        (
            "I will provide you with 3 passages, each indicated by number identifier [].\n[1] x\n[2] y",
            "2 documents, not 3",
        ),
    ],
)
def test_what_is_no_prompt_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(UnknownPrompt, match=reason):
        recognise([Said("user", text)])


def test_texts_that_nobody_knows_are_refused() -> None:
    with pytest.raises(Unknown, match="no query of the suite toy"):
        KNOWN.query("how high is the moon")
    with pytest.raises(Unknown, match="document 2 of the prompt"):
        KNOWN.documents(TOPIC.qid, [PASSAGES[0], "Nothing of this kind stands anywhere in the lists."])


@given(st.text(max_size=300))
@settings(deadline=None)
def test_any_text_is_known_or_refused(text: str) -> None:
    try:
        seen = recognise([Said("user", text)])
    except UnknownPrompt:
        return
    assert seen.documents


def test_our_probe_is_known() -> None:
    assert is_probe([Said(turn.role, turn.content) for turn in probe._USER])

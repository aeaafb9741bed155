"""The judge that asks a chat model: the ladder, the labels, the room, the bill."""

import asyncio
from collections.abc import Callable, Sequence
from math import log
from typing import Any

import pytest
from ftfy import fix_text
from hypothesis import given
from hypothesis import strategies as st

from podium_server.accounting.prices import Prices
from podium_server.accounting.usage import Usage
from podium_server.backends.chat.backend import Capability, ChatCall, ChatFailure, ChatReply
from podium_server.errors import BackendDown, FailedPrecondition, UnreadableReply
from podium_server.judges.case import Candidate, Case, Side, Truncation
from podium_server.judges.chat.documents import mended
from podium_server.judges.chat.judge import ChatJudge
from podium_server.judges.chat.settings import ChatSettings
from podium_server.judges.judge import ScoreKind
from podium_strategies.plan import Grade, Liken, Order, Pick, Prefer, Question
from podium_strategies.prompts import load
from podium_strategies.prompts.prompt import Sheet
from tests.data import rows
from tests.judges.scripted_chat import PRICES, Collected, ScriptedChat, saying

REASK = ChatSettings(reask_missing=1)


def case_of(*texts: str, query: str = "why", **more: Any) -> Case:
    return Case(query, tuple(Candidate(f"d{place}", text) for place, text in enumerate(texts)), **more)


ABC = case_of("alpha", "beta", "gamma")


async def ruled(judge: ChatJudge, questions: Sequence[Question[Any]], case: Case = ABC) -> Collected:
    sink = Collected()
    await judge.rule(case, questions, sink)
    return sink


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("nothing happened")


# --- the ladder -----------------------------------------------------------------------------------------------


async def test_an_order_is_read_in_items_of_the_pool() -> None:
    chat = ScriptedChat(saying("[3] > [1] > [2]"))
    sink = await ruled(ChatJudge(chat, load("rank-vicuna")), [Order((2, 0, 1))])
    assert sink.answers == [(1, 2, 0)]
    assert "[1] gamma\n[2] alpha\n[3] beta\n" in chat.calls[0].messages[1].content
    ruling = sink.rulings[0]
    assert not ruling.repaired
    assert ruling.note == "[3] > [1] > [2]"
    assert ruling.usage.repairs == {"ok": 1}
    assert ruling.usage.calls == 1
    assert ruling.usage.cost_nano_usd == ruling.usage.prompt_tokens * 1000 + ruling.usage.output_tokens * 2000
    assert (chat.calls[0].temperature, chat.calls[0].seed, chat.calls[0].labels) == (0.0, None, None)


async def test_what_is_missing_stands_as_it_was_shown_and_is_counted() -> None:
    sink = await ruled(ChatJudge(ScriptedChat(saying("[3]")), load("rank-gpt")), [Order((0, 1, 2))])
    assert sink.answers == [(2, 0, 1)]
    assert sink.rulings[0].repaired
    assert sink.usage.repairs == {"missing": 1}


async def test_labels_that_are_too_many_are_counted_beside_a_whole_answer() -> None:
    sink = await ruled(
        ChatJudge(ScriptedChat(saying("[3] > [1] > [2] > [2] > [77]")), load("rank-gpt")), [Order((0, 1, 2))]
    )
    assert sink.answers == [(2, 0, 1)]
    assert not sink.rulings[0].repaired
    assert sink.usage.repairs == {"ok": 1, "surplus": 1}


async def test_only_what_is_missing_is_asked_for_again() -> None:
    chat = ScriptedChat(saying("[3]", "[2] > [1]"))
    sink = await ruled(ChatJudge(chat, load("rank-vicuna"), settings=REASK), [Order((0, 1, 2))])
    assert sink.answers == [(2, 1, 0)]
    assert "provide you with 2 passages" in chat.calls[1].messages[1].content
    assert "[1] alpha\n[2] beta\n" in chat.calls[1].messages[1].content
    assert sink.usage.repairs == {"missing": 1, "ok": 1}
    assert sink.usage.calls == 2


async def test_one_missing_document_needs_no_call() -> None:
    chat = ScriptedChat(saying("[3] > [2]"))
    sink = await ruled(ChatJudge(chat, load("rank-vicuna"), settings=REASK), [Order((0, 1, 2))])
    assert sink.answers == [(2, 1, 0)]
    assert len(chat.calls) == 1


async def test_a_failed_second_call_leaves_the_first_answer() -> None:
    failure = ChatFailure(BackendDown("gone"), Usage(calls=2, retries=1))
    chat = ScriptedChat(saying("[3]", failure))
    sink = await ruled(ChatJudge(chat, load("rank-vicuna"), settings=REASK), [Order((0, 1, 2))])
    assert sink.answers == [(2, 0, 1)]
    assert sink.usage.repairs == {"missing": 1, "reask_failed": 1}
    assert sink.usage.calls == 3
    assert not sink.in_vain


async def test_nothing_readable_keeps_what_was_shown() -> None:
    refusal = "I am sorry, but no."
    for name, question, answer in (
        ("rank-gpt", Order((2, 0, 1)), (2, 0, 1)),
        ("setwise", Pick((2, 0)), 2),
        ("pairwise", Prefer(1, 0), 0.5),
        ("score-text", Grade(1), 0.0),
    ):
        sink = await ruled(ChatJudge(ScriptedChat(saying(refusal)), load(name)), [question])
        assert sink.answers == [answer]
        assert sink.rulings[0].repaired
        assert sink.usage.repairs == {"unreadable": 1}


async def test_nothing_readable_is_an_error_where_the_settings_say_so() -> None:
    judge = ChatJudge(ScriptedChat(saying("no")), load("rank-gpt"), settings=ChatSettings(on_unreadable="fail"))
    sink = Collected()
    with pytest.raises(UnreadableReply, match=r"scripted was asked with rank-gpt/1: no label .* in the reply 'no'"):
        await judge.rule(ABC, [Order((0, 1, 2))], sink)
    assert not sink.rulings
    assert [usage.calls for usage in sink.in_vain] == [1]
    assert sink.usage.repairs == {"unreadable": 1}


async def test_asking_again_holds_the_model_to_the_form_where_the_endpoint_can() -> None:
    chat = ScriptedChat(saying("hm", "[2] > [1] > [3]"), can=frozenset({Capability.REGEX}))
    sink = await ruled(ChatJudge(chat, load("rank-vicuna"), settings=REASK), [Order((0, 1, 2))])
    assert [call.regex for call in chat.calls] == [None, r"\[[1-9][0-9]{0,2}\]( > \[[1-9][0-9]{0,2}\]){2}"]
    assert sink.answers == [(1, 0, 2)]
    assert sink.usage.repairs == {"unreadable": 1, "ok": 1}
    # At temperature 0 the same words would bring the same reply.
    chat = ScriptedChat(saying("hm"))
    sink = await ruled(ChatJudge(chat, load("rank-vicuna"), settings=REASK), [Order((0, 1, 2))])
    assert sink.answers == [(0, 1, 2)]
    chat = ScriptedChat(saying("hm", "Passage B"), can=frozenset({Capability.CHOICE}))
    sink = await ruled(ChatJudge(chat, load("pairwise"), settings=REASK), [Prefer(0, 1)])
    assert [call.choice for call in chat.calls] == [None, ("Passage A", "Passage B")]
    assert sink.answers == [0.0]


async def test_our_own_prompts_are_held_at_once_and_trained_ones_are_not() -> None:
    every = frozenset(Capability)
    reply = '{"ranking": [1, 2, 3]}'
    chat = ScriptedChat(lambda call: reply, can=every)
    await ruled(ChatJudge(chat, load("listwise-json")), [Order((0, 1, 2))])
    await ruled(ChatJudge(chat, load("rank-vicuna")), [Order((0, 1, 2))])
    await ruled(ChatJudge(chat, load("listwise-json"), settings=ChatSettings(constrained="never")), [Order((0, 1, 2))])
    await ruled(ChatJudge(chat, load("rank-vicuna"), settings=ChatSettings(constrained="always")), [Order((0, 1, 2))])
    assert [(call.schema is not None, call.regex is not None) for call in chat.calls] == [
        (True, False),
        (False, False),
        (False, False),
        (False, True),
    ]


async def test_being_held_always_is_refused_where_the_endpoint_cannot() -> None:
    judge = ChatJudge(ScriptedChat(saying()), load("rank-vicuna"), settings=ChatSettings(constrained="always"))
    assert await judge.lacking() == (
        "constrained is 'always', and the model scripted cannot be held to the form of rank-vicuna/1",
    )
    with pytest.raises(FailedPrecondition, match="cannot be held"):
        await judge.rule(ABC, [Order((0, 1))], Collected())


@given(reply=st.text(), again=st.text())
async def test_any_two_replies_give_a_permutation(reply: str, again: str) -> None:
    judge = ChatJudge(ScriptedChat(saying(reply, again)), load("rank-gpt"), settings=REASK)
    sink = await ruled(judge, [Order((2, 0, 1))])
    assert sorted(sink.rulings[0].answer) == [0, 1, 2]


async def test_one_document_and_none_need_no_model() -> None:
    judge = ChatJudge(ScriptedChat(saying()), [load("rank-gpt"), load("setwise")])
    sink = await ruled(judge, [Order((1,)), Order(()), Pick((2,))])
    assert sink.answers == [(1,), (), 2]
    assert sink.usage == Usage()
    assert judge.estimate(ABC, [Order((1,)), Pick((0,))]).calls == 0


async def test_a_top_is_enough() -> None:
    chat = ScriptedChat(saying('{"best": [3, 1]}'))
    sink = await ruled(ChatJudge(chat, load("choose-best")), [Order((0, 1, 2), top=2)])
    assert sink.answers == [(2, 0, 1)]
    assert sink.usage.repairs == {"ok": 1}


# --- labels ---------------------------------------------------------------------------------------------------


def weighed(unseen: float | None = None, **labels: float) -> ChatReply:
    return ChatReply("", label_logprobs={name: log(p) for name, p in labels.items()}, unseen_logprob=unseen)


async def test_scores_preferences_picks_and_orders_from_one_token() -> None:
    for name, question, reply, answer in (
        ("yes-no", Grade(0), weighed(Yes=0.6, No=0.2), 0.75),
        ("graded", Grade(0), weighed(**{str(i): 0.2 for i in range(5)}), 2.0),
        ("pairwise-logprobs", Prefer(0, 1), weighed(A=0.1, B=0.3), 0.25),
        ("setwise-logprobs", Pick((2, 1, 0)), weighed(A=0.1, B=0.7, C=0.1), 1),
        ("first", Order((2, 1, 0)), weighed(A=0.1, B=0.7, C=0.2), (1, 0, 2)),
        ("bge-reranker-v2-gemma", Grade(0), weighed(Yes=0.3), 0.3),
    ):
        chat = ScriptedChat(saying(reply), can=frozenset({Capability.LOGPROBS, Capability.PREFILL}))
        judge = ChatJudge(chat, load(name))
        assert await judge.lacking() == ()
        sink = await ruled(judge, [question])
        assert sink.answers == [pytest.approx(answer)]
        assert sink.usage.repairs == {"ok": 1}
        assert chat.calls[0].max_output_tokens == 1
        assert chat.calls[0].labels == load(name).labels(len(question.items))


async def test_a_label_that_was_not_reported_is_bounded_and_counted() -> None:
    reply = weighed(log(0.2), Yes=0.6)
    sink = await ruled(ChatJudge(ScriptedChat(saying(reply)), load("yes-no")), [Grade(0)])
    assert sink.answers == [pytest.approx(0.75)]
    assert sink.usage.repairs == {"ok": 1, "missing_label": 1}
    # FIRST: labels that nobody saw stay as they were shown.
    reply = weighed(log(0.01), B=0.6)
    sink = await ruled(ChatJudge(ScriptedChat(saying(reply)), load("first")), [Order((2, 1, 0))])
    assert sink.answers == [(1, 2, 0)]


async def test_no_label_at_all_is_unreadable() -> None:
    sink = await ruled(ChatJudge(ScriptedChat(saying(weighed(log(0.01)))), load("yes-no")), [Grade(0)])
    assert sink.answers == [0.0]
    assert sink.usage.repairs == {"unreadable": 1}


async def test_an_endpoint_without_log_probabilities_is_named() -> None:
    chat = ScriptedChat(saying("Yes"), can=frozenset({Capability.TEXT}))
    judge = ChatJudge(chat, load("yes-no"))
    (sentence,) = await judge.lacking([Grade])
    assert sentence == (
        "the prompt yes-no/1 needs label_logprobs or logprobs of the model scripted, whose endpoint gives none"
    )
    with pytest.raises(FailedPrecondition, match="needs label_logprobs or logprobs"):
        await judge.rule(ABC, [Grade(0)], Collected())
    assert chat.calls == [], "what is known to be missing is not paid for"


async def test_an_endpoint_that_says_it_can_and_does_not_is_named_too() -> None:
    judge = ChatJudge(ScriptedChat(saying("Yes")), load("yes-no"))
    with pytest.raises(FailedPrecondition, match="gave no log-probabilities"):
        await judge.rule(ABC, [Grade(0)], sink := Collected())
    assert sink.usage.calls == 1


async def test_query_likelihood_asks_for_the_querys_own_probability() -> None:
    chat = ScriptedChat(saying(ChatReply("", continuation_logprob=-7.5)))
    judge = ChatJudge(chat, load("query-likelihood"))
    sink = await ruled(judge, [Grade(1)])
    assert sink.answers == [-7.5]
    assert chat.calls[0].score_continuation == "why"
    assert judge.facts.score_kind is ScoreKind.LOG_LIKELIHOOD


async def test_several_prompts_serve_several_kinds() -> None:
    judge = ChatJudge(ScriptedChat(saying("B", "B")), [load("pairwise"), load("setwise")], PRICES)
    sink = await ruled(judge, [Prefer(0, 1), Pick((0, 1, 2))])
    assert sink.answers == [0.0, 1]
    assert judge.facts.prompt_id == "pairwise/1+setwise/1"
    assert judge.facts.answers == {Prefer, Pick}
    with pytest.raises(FailedPrecondition, match=r"pairwise/1\+setwise/1 answers Pick, Prefer, not Liken"):
        await judge.rule(ABC, [Liken(0, (1,))], Collected())
    with pytest.raises(ValueError, match="one prompt a kind of question, not setwise/1, setwise/1"):
        ChatJudge(ScriptedChat(saying()), [load("setwise")] * 2)


async def test_more_documents_than_letters_are_refused() -> None:
    case = case_of(*("x" for _ in range(27)))
    with pytest.raises(FailedPrecondition, match="first/1 tells 26 documents apart, not 27"):
        await ruled(ChatJudge(ScriptedChat(saying()), load("first")), [Order(tuple(range(27)))], case)


# --- documents ------------------------------------------------------------------------------------------------


ROOM = {"rank-gpt": 450, "rank-vicuna": 400, "listwise-json": 450}


@pytest.mark.parametrize("prompt", ROOM)
@pytest.mark.parametrize("side", Side)
async def test_documents_are_shortened_evenly_and_the_frame_never_is(prompt: str, side: Side) -> None:
    texts = ("short one", "long " * 200, "middling " * 40, "long " * 200)
    case = case_of(*texts, query="what is it", truncation=Truncation(side=side))
    chat = ScriptedChat(saying('{"ranking": [1, 2, 3, 4]}'), context_tokens=ROOM[prompt])
    judge = ChatJudge(chat, load(prompt))
    quoted = judge.estimate(case, [Order((0, 1, 2, 3))])
    sink = await ruled(judge, [Order((0, 1, 2, 3))], case)
    (call,) = chat.calls
    used = chat.prompt_tokens(call) + call.max_output_tokens
    assert ROOM[prompt] - 25 <= used <= ROOM[prompt]
    flat = "\n".join(message.content for message in call.messages)
    assert "short one" in flat
    assert flat.count("middling") == 40
    # The two long ones are cut to the same length, and all of the frame is there.
    first, second = (part.count("long") for part in flat.split("middling " * 39))
    assert first == second > 0
    assert sink.usage.truncated_documents == 2
    frame = load(prompt).render(Sheet("what is it", ("",) * 4))
    assert len(frame) == len(call.messages)
    for turn, message in zip(frame, call.messages, strict=True):
        for line in turn.content.split("\n"):
            assert line in message.content
    assert quoted.prompt_tokens == pytest.approx(chat.prompt_tokens(call), rel=0.05)


async def test_the_side_that_is_cut_is_the_callers_choice() -> None:
    words = " ".join(f"w{i}" for i in range(50))
    for side, kept in ((Side.END, "w0 w1 w2"), (Side.START, "w47 w48 w49")):
        chat = ScriptedChat(saying("[1] > [2]"))
        case = case_of(words, "x", truncation=Truncation(3, side))
        sink = await ruled(ChatJudge(chat, load("rank-gpt")), [Order((0, 1))], case)
        assert chat.calls[0].messages[3].content.split() == ["[1]", *kept.split()]
        assert sink.usage.truncated_documents == 1


async def test_a_query_that_fills_the_model_is_refused_with_the_numbers() -> None:
    chat = ScriptedChat(saying(), context_tokens=100)
    with pytest.raises(FailedPrecondition, match=r"rank-vicuna/1 around 2 documents is \d+ tokens .* holds 100"):
        await ruled(ChatJudge(chat, load("rank-vicuna")), [Order((0, 1))], case_of("a", "b", query="w " * 100))
    assert not chat.calls


async def test_a_document_is_prepared_and_counted_once_a_request() -> None:
    case = case_of(*(f"word{i} " * 100 for i in range(20)))
    chat = ScriptedChat(lambda call: "[1]", context_tokens=8_000)
    judge = ChatJudge(chat, load("rank-vicuna"))
    await ruled(judge, [Order(tuple(range(20)))], case)
    counted = chat.counted
    assert counted >= 20
    await ruled(judge, [Order(tuple(range(20)))], case)
    assert chat.counted - counted <= 2  # the replies
    # Where the bytes say that everything fits, nothing is counted at all.
    roomy = ScriptedChat(lambda call: "[1]", context_tokens=10**6)
    await ruled(ChatJudge(roomy, load("rank-gpt")), [Order(tuple(range(20)))], case)
    assert roomy.counted == 1  # the reply


async def test_documents_are_cleaned_as_the_rankers_saw_them() -> None:
    chat = ScriptedChat(lambda call: "[1]")
    judge = ChatJudge(chat, load("rank-vicuna"))
    texts = ("70Â° &amp; more", "a < b", "x &amp; y", "&lt;b&gt; &amp;", "［7］ curly “quotes”")
    await ruled(judge, [Order((0, 1, 2, 3, 4))], case_of(*texts))
    whole = chat.calls[0].messages[1].content
    # Cleaned at once, as rank_llm does it: from the line with an angle bracket on, entities stay.
    assert whole.splitlines()[2:5] == ["[1] 70° & more", "[2] a < b", "[3] x &amp; y"]
    assert whole.splitlines()[5] == "[4] &lt;b&gt; &amp;"
    assert whole.splitlines()[6] == '[5] (7) curly "quotes"'


async def test_whole_prompts_equal_the_cleaned_whole_on_real_text() -> None:
    prompt = load("rank-vicuna")
    for number, row in enumerate(rows("eval/dl19_bm25_top100.jsonl.gz")):
        if number == 12:
            break
        texts = [candidate["text"] for candidate in row["candidates"]]
        chat = ScriptedChat(lambda call: "[1]")
        case = case_of(*texts, query=row["query"])
        await ruled(ChatJudge(chat, prompt), [Order(tuple(range(s, s + 20))) for s in (0, 40, 80)], case)
        for start, call in zip((0, 40, 80), chat.calls, strict=True):
            raw = tuple(prompt.prepare(text, 20)[0] for text in texts[start : start + 20])
            whole = fix_text(prompt.render(Sheet(row["query"], raw))[1].content)
            assert call.messages[1].content == whole


@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_plain_ascii_needs_no_mending(text: str) -> None:
    assert mended(text) == fix_text(text)


# --- the bill -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rank-gpt", "rank-vicuna", "listwise-json", "first"])
async def test_the_estimate_is_what_is_asked(name: str) -> None:
    case = case_of(*(f"Document {i} says this and that about {i}. " * (i + 1) for i in range(20)))
    label_reply = ChatReply("", label_logprobs={"A": -0.1}, unseen_logprob=-9.0)
    chat = ScriptedChat(lambda call: label_reply if call.labels else '{"ranking": [1]}')
    judge = ChatJudge(chat, load(name), PRICES)
    questions = [Order(tuple(range(20))), Order((3, 1, 2))]
    quoted = judge.estimate(case, questions)
    sink = await ruled(judge, questions, case)
    assert quoted.calls == sink.usage.calls == 2
    assert quoted.prompt_tokens == pytest.approx(sink.usage.prompt_tokens, rel=0.03)
    assert quoted.cost_nano_usd == quoted.prompt_tokens * 1000 + quoted.output_tokens * 2000
    assert Prices() == ChatJudge(chat, load(name)).facts.prices
    assert ChatJudge(chat, load(name)).estimate(case, questions).cost_nano_usd is None


async def test_a_failure_is_charged_and_raised_as_what_it_was() -> None:
    failure = ChatFailure(BackendDown("gone"), Usage(calls=3, retries=2))
    sink = Collected()
    with pytest.raises(BackendDown, match="gone"):
        await ChatJudge(ScriptedChat(saying(failure)), load("rank-gpt")).rule(ABC, [Order((0, 1))], sink)
    assert sink.usage.calls == 3
    assert not sink.rulings


async def test_one_failure_ends_the_others_and_each_is_charged() -> None:
    forever = asyncio.Event()

    def script(call: ChatCall) -> Any:
        shown = call.messages[-1].content
        return ChatFailure(BackendDown("gone"), Usage(calls=1)) if "gamma" in shown else forever

    sink = Collected()
    with pytest.raises(BackendDown):
        await ChatJudge(ScriptedChat(script), load("score-text")).rule(ABC, [Grade(0), Grade(1), Grade(2)], sink)
    assert sink.usage.calls == 3
    assert len(sink.in_vain) == 3


async def test_cancelling_reports_every_call_under_way() -> None:
    forever = asyncio.Event()
    chat = ScriptedChat(lambda call: forever)
    sink = Collected()
    asking = asyncio.create_task(ChatJudge(chat, load("score-text")).rule(ABC, [Grade(i) for i in range(3)], sink))
    await until(lambda: len(chat.calls) == 3)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert sink.usage.calls == 3
    assert len(asyncio.all_tasks()) == 1


async def test_cancelling_a_second_call_reports_the_first_one_too() -> None:
    forever = asyncio.Event()
    chat = ScriptedChat(lambda call: "[3]" if "3 passages" in call.messages[1].content else forever)
    sink = Collected()
    asking = asyncio.create_task(
        ChatJudge(chat, load("rank-vicuna"), settings=REASK).rule(ABC, [Order((0, 1, 2))], sink)
    )
    await until(lambda: len(chat.calls) == 2)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert sink.usage.calls == 2
    assert sink.usage.repairs == {"missing": 1}


async def test_questions_run_side_by_side_and_are_delivered_as_they_come() -> None:
    gate = asyncio.Event()
    chat = ScriptedChat(lambda call: gate if "alpha" in call.messages[-1].content else "50")
    sink = Collected()
    asking = asyncio.create_task(ChatJudge(chat, load("score-text")).rule(ABC, [Grade(0), Grade(1), Grade(2)], sink))
    await until(lambda: len(sink.rulings) == 2)
    assert set(sink.rulings) == {1, 2}
    gate.set()
    await asking
    assert len(sink.rulings) == 3
    assert all(elapsed >= 0 for elapsed in sink.elapsed)


def test_settings_that_exist_are_valid() -> None:
    for wrong in (
        {"on_unreadable": "guess"},
        {"reask_missing": -1},
        {"constrained": "maybe"},
        {"temperature": float("nan")},
        {"max_output_tokens": 0},
    ):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
            ChatSettings(**wrong)

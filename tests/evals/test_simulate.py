"""The simulated judge: truthful without noise, the same for the same question, and wrong as often as it says."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import exp, log, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podium_evals.measures import MAIN, measure
from podium_evals.simulate.chat import SimulatedChat, bounded
from podium_evals.simulate.clock import Run, run
from podium_evals.simulate.endpoint import BLOCK, Endpoint, Latency, measured
from podium_evals.simulate.judge import Judge
from podium_evals.simulate.noise import KINDS, LEVELS, Draws, Merits, Noise, opinion, parse, scores
from podium_evals.simulate.recognise import Form, Kind, Said, Seen
from podium_evals.simulate.replies import Reply, reply
from podium_evals.simulate.strategies import LOCAL as LOCALS
from podium_evals.simulate.strategies import ROWS, Given, Row
from podium_evals.simulate.table import Setting, table
from podium_server.judges.case import Candidate, Case
from podium_server.judges.chat.judge import ChatJudge
from podium_strategies import prompts
from podium_strategies.drive import run as lockstep
from podium_strategies.permutation import is_permutation
from podium_strategies.pool import Pool
from podium_strategies.prompts.prompt import MALFORMED, Repair, Sheet
from tests.evals.simulated import knowledge, suite
from tests.laws.judges import LazyOracle

SUITE = suite()
KNOWN = knowledge()
TOPIC = SUITE.topics[2]
CASE = Case(TOPIC.query, tuple(Candidate(*passage) for passage in TOPIC.candidates))
N = len(TOPIC.candidates)
LOCAL = dict.fromkeys(LOCALS, Given(tuple(range(N - 1, -1, -1)), tuple(float(item) for item in range(N))))
ASKING = [row for row in ROWS if row.prompt]


def ranked(row: Row, noise: Noise, seed: int = 0, latency: Latency | None = None) -> Run:
    chat = SimulatedChat(Judge(KNOWN, noise, seed), Endpoint(latency or Latency()))
    return run(row.build(LOCAL), CASE, ChatJudge(chat, prompts.load(row.prompt)), chat)


# --- without noise ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", ASKING, ids=lambda row: row.name)
def test_without_noise_every_strategy_finds_what_it_finds_with_the_truth(row: Row) -> None:
    grades = SUITE.qrels[TOPIC.qid]
    truth = LazyOracle([float(grades[passage.docid]) for passage in TOPIC.candidates])
    pool = Pool(N, tuple(passage.score or 0.0 for passage in TOPIC.candidates))
    expected = lockstep(row.build(LOCAL).plan(pool), truth, N).order

    found = ranked(row, LEVELS["none"]).order

    # A grade read from a probability cannot tell equal ones apart by more than rounding: those may change places.
    assert [grades[TOPIC.candidates[item].docid] for item in found] == [
        grades[TOPIC.candidates[item].docid] for item in expected
    ]
    if "pointwise" not in row.prompt and row.prompt not in ("yes-no", "graded"):
        assert found == expected


@pytest.mark.parametrize("row", ASKING, ids=lambda row: row.name)
def test_without_noise_the_first_ten_are_ideal_where_the_strategy_promises_them(row: Row) -> None:
    if row.build(LOCAL).promised(N) < 10:
        pytest.skip("promises fewer than ten")
    found = ranked(row, LEVELS["none"])
    docids = [TOPIC.candidates[item].docid for item in found.order]
    graded = {TOPIC.qid: SUITE.qrels[TOPIC.qid]}
    assert measure({TOPIC.qid: docids}, graded).mean(str(MAIN)) == pytest.approx(1.0)


# --- the same answer to the same question -------------------------------------------------------------------------


def question(name: str, places: tuple[int, ...]) -> list[Said]:
    prompt = prompts.load(name)
    texts = tuple(prompt.prepare(TOPIC.candidates[place].text, len(places))[0] for place in places)
    return [Said(*turn) for turn in prompt.render(Sheet(TOPIC.query, texts))]


QUESTIONS = st.one_of(
    st.tuples(st.just("listwise-json"), st.lists(st.integers(0, N - 1), min_size=2, max_size=12, unique=True)),
    st.tuples(st.just("pairwise"), st.lists(st.integers(0, N - 1), min_size=2, max_size=2, unique=True)),
    st.tuples(st.just("graded"), st.lists(st.integers(0, N - 1), min_size=1, max_size=1)),
    st.tuples(st.just("first"), st.lists(st.integers(0, N - 1), min_size=2, max_size=12, unique=True)),
)


@given(st.lists(QUESTIONS, min_size=1, max_size=6), st.permutations(range(6)), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_an_answer_depends_on_the_question_and_the_seed_not_on_what_came_before(
    asked: list[tuple[str, list[int]]], order: list[int], seed: int
) -> None:
    messages = [question(name, tuple(places)) for name, places in asked]
    judge = Judge(KNOWN, LEVELS["high"], seed)
    forwards = {i: judge.reply(messages[i])[0] for i in range(len(messages))}
    other = Judge(knowledge(), LEVELS["high"], seed)
    shuffled = {i: other.reply(messages[i])[0] for i in order if i < len(messages)}
    assert forwards == shuffled


def test_another_seed_is_another_judge() -> None:
    row = next(row for row in ROWS if row.name == "sliding-window")
    assert len({ranked(row, LEVELS["medium"], seed).order for seed in range(4)}) == 4


def test_the_levels_are_one_judge_with_faults_of_another_size() -> None:
    merits = [Merits(f"d{i}", grade=i % 4, highest=3, rank=i, length=0.1 * i, first_stage=-0.2 * i) for i in range(8)]

    def faults(level: str) -> list[float]:
        truth = scores(LEVELS["none"], 3, "q", merits, Draws(1))
        return [
            score - true for score, true in zip(scores(LEVELS[level], 3, "q", merits, Draws(1)), truth, strict=True)
        ]

    for low, medium, high in zip(faults("low"), faults("medium"), faults("high"), strict=True):
        assert low == pytest.approx(medium / 2)
        assert high == pytest.approx(medium * 2)


# --- how often it is wrong ----------------------------------------------------------------------------------------

TRIALS = 4000


def preferring(noise: Noise, grades: tuple[int, int]) -> float:
    """Return how often the document shown first is preferred, over many pairs."""
    seen = Seen("pairwise", Kind.PREFER, Form.PASSAGE, "", ("", ""), 2)
    first = 0
    for trial in range(TRIALS):
        shown = [Merits(f"{trial}-{i}", grade, 3) for i, grade in enumerate(grades)]
        draws = Draws(7, trial)
        first += reply(seen, scores(noise, 7, "q", shown, draws), noise, draws).text == "Passage A"
    return first / TRIALS


def within(found: float, expected: float) -> bool:
    """Tell whether a rate is within four standard errors."""
    return abs(found - expected) <= 4 * sqrt(expected * (1 - expected) / TRIALS)


@pytest.mark.parametrize(
    ("grades", "slope"), [((1, 0), 0.0), ((0, 2), 0.0), ((0, 0), 0.0), ((0, 0), 1.3), ((1, 2), 0.7)]
)
def test_a_pair_stands_in_log_odds_of_utility_and_place(grades: tuple[int, int], slope: float) -> None:
    noise = Noise(utility=(0.0, 0.8, 1.5, 2.0), call=1.0, position_slope=slope)
    difference = noise.utility[grades[0]] - noise.utility[grades[1]] + slope
    assert within(preferring(noise, grades), 1 / (1 + exp(-difference)))


def test_half_the_noise_doubles_the_log_odds() -> None:
    noise = Noise(utility=(0.0, 0.6, 1.2, 1.8), call=1.0)
    found = preferring(noise.scaled(0.5), (1, 0))
    assert within(found, 1 / (1 + exp(-2 * 0.6)))


def test_opinions_last_and_have_the_deviation_that_is_said() -> None:
    noise = Noise(persistent=1.5, call=0.0)
    drawn = [opinion(noise, 5, "q", Merits(f"d{i}", 0, 3)) for i in range(TRIALS)]
    again = [opinion(noise, 5, "q", Merits(f"d{i}", 0, 3)) for i in range(TRIALS)]
    mean = sum(drawn) / TRIALS
    deviation = sqrt(sum((one - mean) ** 2 for one in drawn) / TRIALS)
    assert drawn == again
    assert abs(mean) < 4 * 1.5 / sqrt(TRIALS)
    assert abs(deviation / 1.5 - 1) < 4 / sqrt(2 * TRIALS)


def test_lasting_opinions_contradict_themselves_less_than_noise_of_a_call() -> None:
    def contradictions(noise: Noise) -> int:
        found = 0
        for trial in range(500):
            shown = [Merits(f"{trial}-{i}", 0, 3) for i in range(2)]
            ways = [scores(noise, 1, "q", pair, Draws(trial, place)) for place, pair in enumerate((shown, shown[::-1]))]
            found += (ways[0][0] > ways[0][1]) != (ways[1][1] > ways[1][0])
        return found

    assert contradictions(Noise(persistent=1.5, call=0.0)) == 0
    assert 200 < contradictions(Noise(persistent=0.0, call=1.0)) < 300
    assert contradictions(Noise(position_slope=9.0, call=1.0)) > 450


@pytest.mark.parametrize(("rate", "n"), [(0.0, 9), (0.2, 9), (0.7, 20)])
def test_echoes_and_malformed_replies_come_at_their_rates(rate: float, n: int) -> None:
    noise = Noise(call=1.0, echo=rate, malformed=rate)
    seen = Seen("listwise-json", Kind.ORDER, Form.RANKING, "", ("",) * n, n)
    falling = [float(place) for place in range(n)]  # the last is the best: the shown order is the wrong one
    shown = f'{{"ranking": [{", ".join(str(place + 1) for place in range(n))}]}}'
    said = [reply(seen, falling, noise, Draws(trial)) for trial in range(TRIALS)]
    whole = [one for one in said if not one.malformed]

    assert within(sum(bool(one.malformed) for one in said) / TRIALS, rate) or rate == 0
    echoes = sum(one.text == shown for one in whole) / max(len(whole), 1)
    assert abs(echoes - rate) <= 4 * sqrt(0.25 / max(len(whole), 1)) or rate == 0
    for kind, weight in KINDS.items():
        assert (
            within(sum(one.malformed == kind for one in said) / TRIALS, rate * weight / sum(KINDS.values()))
            or rate == 0
        )


def test_probabilities_of_labels_are_those_of_the_scores() -> None:
    seen = Seen("first", Kind.ORDER, Form.LETTERS, "", ("",) * 3, 3, begun="[")
    said = reply(seen, [1.0, 3.0, 2.0], Noise(), Draws(0))
    told = dict(said.first_token)
    assert said.first_token[0][0] == "B"
    assert told["B"] - told["A"] == pytest.approx(2.0)
    assert sum(exp(logprob) for logprob in told.values()) <= 1.0
    assert bounded(said, 1) == ("B", "length", 1)


# --- malformed replies --------------------------------------------------------------------------------------------


def _named(value: object) -> str:
    return value.name if isinstance(value, Row) else str(value)


@pytest.mark.parametrize(("row", "kind"), list(product([row for row in ASKING if not row.heavy], KINDS)), ids=_named)
def test_malformed_replies_are_counted_and_break_no_strategy(row: Row, kind: str) -> None:
    noise = replace(LEVELS["medium"], malformed=1.0, echo=0.0, kinds={kind: 1.0})
    found = ranked(row, noise)
    calls = found.usage.calls
    malformed = sum(found.usage.repairs.get(repair.value, 0) for repair in MALFORMED)

    assert is_permutation(found.order, N)
    assert sum(found.usage.repairs.get(repair.value, 0) for repair in (*MALFORMED, Repair.OK)) == calls
    if kind == "refusal":
        assert found.usage.repairs.get("unreadable", 0) == malformed == calls
    elif row.prompt == "listwise-json":
        assert malformed > calls / 2


# --- tokens, cache, time ------------------------------------------------------------------------------------------


def test_the_prefix_cache_serves_whole_blocks_of_what_was_there_before() -> None:
    endpoint = Endpoint()
    words = " ".join(["stone"] * 100)
    one = measured([Said("system", words), Said("user", "what about this")])
    other = measured([Said("system", words), Said("user", "and what about that")])
    alien = measured([Said("system", f"{words} more"), Said("user", "what about this")])

    assert endpoint.serve(0.0, one, 1).cached_tokens == 0
    assert endpoint.serve(0.0, other, 1).cached_tokens == 105 // BLOCK * BLOCK
    assert endpoint.serve(0.0, alien, 1).cached_tokens == 0
    again = endpoint.serve(0.0, one, 1).cached_tokens
    assert again < one.tokens
    assert again % BLOCK == 0


def test_time_is_prefill_in_turn_and_replies_side_by_side() -> None:
    latency = Latency(prefill_tokens_per_s=100, decode_tokens_per_s=10, overhead_s=0.0, slots=2)
    endpoint = Endpoint(latency)
    prompt = [measured([Said("user", f"{word} " * 40)]) for word in ("stone", "river", "cloud")]
    first, second, third = (endpoint.serve(0.0, one, 20) for one in prompt)
    prefill_s = prompt[0].tokens / 100

    assert first.finished_at == pytest.approx(prefill_s + 2.0)
    assert second.finished_at == pytest.approx(2 * prefill_s + 2.0)
    assert third.prefilled_at == pytest.approx(first.finished_at + prefill_s)  # two replies are written at a time


def test_calls_side_by_side_take_less_time_than_one_after_another() -> None:
    slow = Latency(prefill_tokens_per_s=1e6, overhead_s=0.1)
    by_name = {row.name: row for row in ROWS}
    asked = [by_name[name] for name in ("jointrank r=2", "sliding-window 2 passes")]
    joint, sliding = (ranked(row, LEVELS["low"], latency=slow) for row in asked)

    assert joint.rounds == 1
    assert joint.usage.calls == sliding.usage.calls == 4
    assert joint.latency_s < sliding.latency_s / 2


@given(st.text(max_size=80), st.integers(1, 40))
@settings(deadline=None)
def test_a_bound_on_a_reply_is_kept(text: str, most: int) -> None:
    said, reason, tokens = bounded(Reply(text, (("x", -0.1),)), most)
    assert tokens <= most or tokens == 1
    assert reason == ("stop" if said == text and tokens <= most else "length") or most == 1


# --- settings -----------------------------------------------------------------------------------------------------


def test_settings_that_cannot_be_are_refused_with_the_numbers() -> None:
    for text, reason in (
        ("loud", "no noise level"),
        ("low,volume=3", "NAME=NUMBER"),
        ("low,malformed=2", "malformed is 2"),
        ("low,persistent=-1", "persistent is -1"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse(text)
    with pytest.raises(ValueError, match="utility is"):
        Noise(utility=(1.0, 0.0))
    with pytest.raises(ValueError, match="prefill_tokens_per_s is 0"):
        Latency.parse("prefill_tokens_per_s=0")
    with pytest.raises(ValueError, match="heavy_seeds is 9"):
        Setting(SUITE, {}, seeds=2, heavy_seeds=9)
    assert parse("low,malformed=0.2").malformed == 0.2
    assert Latency.parse("none") is None
    assert Latency.parse("slots=3") == Latency(slots=3)


def test_a_table_has_a_cell_for_every_row_and_level() -> None:
    rows = [row for row in ROWS if row.name in ("first-stage", "fast", "sliding-window", "fast 10 > window")]
    local = {topic.qid: LOCAL for topic in SUITE.topics}
    cells = {(cell.row, cell.level): cell for cell in table(Setting(SUITE, local, seeds=2, processes=1), rows)}

    assert len(cells) == len(rows) * 3
    assert cells["sliding-window", "low"].ndcg.shape == (2, len(SUITE.topics))
    assert cells["first-stage", "low"].calls == 0
    assert cells["fast 10 > window", "high"].calls == 1
    assert cells["sliding-window", "low"].calls == 2
    assert cells["sliding-window", "medium"].usd > 0
    assert cells["sliding-window", "low"].mean > cells["sliding-window", "high"].mean
    assert log(cells["sliding-window", "low"].prompt_tokens) > 0

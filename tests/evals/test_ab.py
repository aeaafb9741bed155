"""Experiments on simulated traffic whose truth is known: false alarms, effects found, ratios, drafts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podium_evals.online.ab import by_clicks, by_labels, select
from podium_evals.online.estimates import (
    MISMATCH_P,
    Effect,
    effect_by_key,
    mismatch_p,
    paired_effect_by_key,
    sign_test,
)
from podium_evals.online.traffic import CHALLENGER, INCUMBENT, Clicks, Request, read_clicks, read_log
from podium_evals.suite import SuiteError
from podium_server.accounting.usage import Usage
from podium_server.cli.app import run as podium
from podium_server.ranking.assignment import Arm, assigned, fingerprint, team_draft
from podium_server.ranking.ranking_log import Entry, Ranked, RankingLog

DOCS = tuple(f"d{number}" for number in range(10))


def ranked(ids: Sequence[str] = DOCS, pipeline: str = "fast") -> Ranked:
    places = tuple(int(docid[1:]) for docid in ids)
    return Ranked(pipeline, tuple(ids), places, (None,) * len(ids), "none", "complete", 0.01, Usage(calls=2))


def entry(number: int, key: str, **more: Any) -> Entry:
    """Return an entry of an experiment that is served, unless `more` says otherwise."""
    arm = CHALLENGER if assigned("e", key, 0.5) else INCUMBENT
    facts = {
        "mode": "served",
        "arm": arm,
        "share": 0.5,
        "shown": arm,
        "rankings": {arm: ranked()},
        "query": fingerprint(f"query {number}"),
    }
    return Entry(
        time_s=1000.0 + number,
        request_id=f"r{number}",
        candidates=10,
        experiment="e",
        key=fingerprint(key),
        **(facts | more),
    )


def traffic(folder: Path, entries: Sequence[Entry]) -> Path:
    path = folder / "rankings.jsonl"
    log = RankingLog(path, file_bytes=1 << 30, files=3, queue_entries=100_000)
    for one in entries:
        log.put(one)
    log.close()
    assert log.written == len(entries)
    return path


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def users(seed: int, effect: float, n_users: int = 120) -> tuple[list[str], list[bool], list[float]]:
    """Return traffic of users who differ in how often they ask and in how readily they click."""
    random = np.random.default_rng(seed)
    keys, arms, values = [], [], []
    for user in range(n_users):
        challenged = bool(random.integers(2))
        readiness = random.beta(2, 3)  # of the user: requests of one are alike
        for _ in range(1 + random.poisson(4)):
            keys.append(f"u{user}")
            arms.append(challenged)
            values.append(float(random.random() < min(1.0, readiness + effect * challenged)))
    return keys, arms, values


# --- estimates --------------------------------------------------------------------------------------------------


def test_a_test_of_a_against_a_raises_few_false_alarms() -> None:
    found = [effect_by_key(*users(seed, 0.0), seed=seed, resamples=500) for seed in range(200)]
    by_interval, by_p = (sum(each.found for each in found), sum(each.p < 0.05 for each in found))
    # 10 expected; 22 is the 99.97th percentile of Binomial(200, 0.05).
    assert 1 <= by_interval <= 22
    assert 1 <= by_p <= 22


def test_requests_taken_one_by_one_would_raise_too_many() -> None:
    """The reason for drawing keys: the same traffic, as if each request were somebody's only one."""
    alarms = 0
    for seed in range(200):
        _, arms, values = users(seed, 0.0)
        alarms += effect_by_key([str(place) for place in range(len(arms))], arms, values, resamples=2).p < 0.05
    assert alarms > 22


def test_a_planted_effect_is_found_as_often_as_the_power_says() -> None:
    detectable = float(np.mean([effect_by_key(*users(seed, 0.0), resamples=2).detectable for seed in range(20)]))
    found = [effect_by_key(*users(1000 + seed, detectable), resamples=2).p < 0.05 for seed in range(100)]
    assert 62 <= sum(found) <= 95  # 80 of 100, less what is lost where a probability is cut at 1
    large = effect_by_key(*users(7, 0.3))
    assert large.found
    assert large.low < large.difference < large.high


def test_the_interval_covers_the_truth_where_requests_are_paired() -> None:
    covered = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        keys = [f"u{user}" for user in range(60) for _ in range(5)]
        lift = np.repeat(random.normal(0.02, 0.05, 60), 5)  # of the user
        base = random.random(300)
        effect = paired_effect_by_key(keys, base.tolist(), (base + lift).tolist(), resamples=500)
        covered += effect.low <= 0.02 <= effect.high
    assert 178 <= covered <= 199


def test_an_empty_arm_or_a_single_key_is_refused() -> None:
    with pytest.raises(ValueError, match="challenger 0"):
        effect_by_key(["a", "b"], [False, False], [1.0, 0.0])
    with pytest.raises(ValueError, match="1 key"):
        effect_by_key(["a", "a"], [False, True], [1.0, 0.0])


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_sign_test_is_exact_and_symmetric(wins: int, losses: int) -> None:
    from math import comb

    n, least = wins + losses, min(wins, losses)
    exact = min(1.0, 2 * sum(comb(n, k) for k in range(least + 1)) / 2**n)
    assert sign_test(wins, losses) == pytest.approx(exact)
    assert sign_test(wins, losses) == sign_test(losses, wins)


def test_a_sample_ratio_that_is_off_is_seen_and_a_right_one_is_not() -> None:
    random = np.random.default_rng(1)
    alarms = sum(mismatch_p([int(random.binomial(10_000, 0.1))], [0.1], [10_000]) < MISMATCH_P for _ in range(1000))
    assert alarms <= 6
    assert mismatch_p([900], [0.1], [10_000]) < MISMATCH_P  # a tenth of the challenger's keys is lost
    assert mismatch_p([1000, 500], [0.1, 0.5], [10_000, 1_000]) == 1.0


# --- reading ----------------------------------------------------------------------------------------------------


def served(folder: Path, effect: float, *, lose: bool = False, seed: int = 3) -> tuple[Path, Path]:
    """Return a log and clicks of an experiment that was served to 500 users."""
    random = np.random.default_rng(seed)
    entries, clicks = [], []
    for number in range(2000):
        key = f"user {random.integers(500)}"
        one = entry(number, key)
        if lose and one.arm == CHALLENGER and assigned("lost", key, 0.3):
            continue
        entries.append(one)
        if random.random() < 0.3 + effect * (one.arm == CHALLENGER):
            clicks.append({"request_id": one.request_id, "doc_id": f"d{random.integers(10)}", "ts": one.time_s + 5})
    return traffic(folder, entries), written(folder / "clicks.jsonl", clicks)


def read(log: Path, clicks: Path) -> Any:
    requests = select(read_log(log).requests, None)
    return by_clicks(requests, read_clicks(clicks, requests))


def test_a_served_effect_is_found_from_files(tmp_path: Path) -> None:
    report = read(*served(tmp_path, 0.15))
    effect: Effect = report.effects["clicked"]
    assert effect.found
    assert effect.low < 0.15 < effect.high
    assert (report.mode, report.requests) == ("served", 2000)
    assert report.mismatch > MISMATCH_P
    assert not report.warnings
    assert report.arms[INCUMBENT].calls == 2


def test_lost_requests_of_one_arm_are_warned_of(tmp_path: Path) -> None:
    report = read(*served(tmp_path, 0.0, lose=True))
    assert report.mismatch < MISMATCH_P
    assert any("SAMPLE RATIO MISMATCH" in warning for warning in report.warnings)


def test_keys_on_both_sides_are_warned_of(tmp_path: Path) -> None:
    entries = [entry(number, f"u{number % 50}") for number in range(500)]
    moved = [entry(1000, f"u{n}", arm=arm, shown=arm, rankings={arm: ranked()}) for n in (1,) for arm in ARMS_OF]
    requests = read_log(traffic(tmp_path, [*entries, *moved])).requests
    report = by_clicks(requests, Clicks({"r0": (1,)}, {}))
    assert any("1 keys were on both sides" in warning for warning in report.warnings)


ARMS_OF = (INCUMBENT, CHALLENGER)


def drafted(folder: Path, better: float, n_users: int = 200) -> tuple[Path, Path]:
    """Return a log and clicks of an interleaving whose challenger has the better top with a probability."""
    random = np.random.default_rng(5)
    entries, clicks = [], []
    for number in range(900):
        wanted = int(random.integers(10))
        rest = [place for place in range(10) if place != wanted]
        random.shuffle(rest)
        good, bad = [wanted, *rest], [*rest, wanted]
        orders = (bad, good) if random.random() < better else (good, bad)
        order, teams = team_draft(*orders, "e", f"r{number}")
        ids = tuple(f"d{place}" for place in order)
        entries.append(
            entry(
                number,
                f"u{number % n_users}",
                mode="interleaved",
                arm=CHALLENGER,
                share=1.0,
                shown="interleaved",
                rankings=dict(zip(ARMS_OF, ([ranked([f"d{p}" for p in o]) for o in orders]), strict=True)),
                interleaved=ids,
                teams="".join("C" if team is Arm.CHALLENGER else "I" for team in teams),
            )
        )
        if random.random() < 0.7:
            clicks.append({"request_id": f"r{number}", "docid": f"d{wanted}"})
    return traffic(folder, entries), written(folder / "clicks.jsonl", clicks)


def test_a_draft_prefers_the_better_and_nobody_where_they_are_alike(tmp_path: Path) -> None:
    (tmp_path / "better").mkdir()
    (tmp_path / "alike").mkdir()
    better = read(*drafted(tmp_path / "better", 0.7)).preference
    assert better.wins > better.losses
    assert better.p < 0.001
    assert better.share.low > 0
    alike = read(*drafted(tmp_path / "alike", 0.5)).preference
    assert alike.p > 0.01
    assert alike.share.low < 0 < alike.share.high


def test_labels_pair_the_rankings_of_a_shadow(tmp_path: Path) -> None:
    both = {INCUMBENT: ranked(), CHALLENGER: ranked(DOCS[::-1], "best")}
    shadow: dict[str, Any] = {"mode": "shadow", "arm": CHALLENGER, "shown": INCUMBENT}
    entries = [entry(number, f"u{number}", rankings=both, **shadow) for number in range(20)]
    entries += [
        entry(number, f"u{number}", rankings={INCUMBENT: ranked()}, missing={CHALLENGER: "busy"}, **shadow)
        for number in range(20, 25)
    ]
    requests = read_log(traffic(tmp_path, entries)).requests

    def labels(request: Request) -> dict[str, float] | None:
        return {"d9": 1.0} if request.request_id != "r0" else None

    report = by_labels(requests, labels)
    effect = report.effects["nDCG@10"]
    assert effect.challenger == 1.0
    assert effect.incumbent == pytest.approx(1 / np.log2(11))
    assert effect.requests == (19, 19)
    assert any("5 busy" in warning for warning in report.warnings)
    assert "1 without labels" in " ".join(report.notes)
    with pytest.raises(SuiteError, match="nobody could click"):
        by_clicks(requests, Clicks({}, {}))


# --- what is refused --------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_counted_or_refused(tmp_path: Path) -> None:
    path = traffic(tmp_path, [entry(number, f"u{number}") for number in range(3)])
    with path.open("a") as file:
        file.write('{"half a li\n[]\n{"format": 1}\n')
    assert read_log(path).unreadable == 3
    with pytest.raises(SuiteError, match="no entries"):
        read_log(written(tmp_path / "empty", [{"format": 1}]))
    with pytest.raises(SuiteError, match="format 9"):
        read_log(written(tmp_path / "other", [{"format": 9}]))
    requests = read_log(path).requests
    with pytest.raises(SuiteError, match="no click on what the log shows"):
        read_clicks(written(tmp_path / "c1", [{"request_id": "x", "doc_id": "y"}]), requests)
    with pytest.raises(SuiteError, match="line 1: a click has"):
        read_clicks(written(tmp_path / "c2", [{"request": "x"}]), requests)
    with pytest.raises(SuiteError, match="has no ts"):
        read_clicks(written(tmp_path / "c3", [{"request_id": "r0", "doc_id": "d0"}]), requests, within_s=60)


def test_clicks_are_counted_once_and_by_what_became_of_them(tmp_path: Path) -> None:
    requests = read_log(traffic(tmp_path, [entry(0, "u")])).requests
    rows = [("r0", "d3", 1001), ("r0", "d3", 1002), ("r0", "d1", 1003), ("r0", "zz", 1004), ("r9", "d0", 1005)]
    rows += [("r0", "d2", 9999)]
    path = written(tmp_path / "c", [{"request_id": r, "doc_id": d, "ts": t} for r, d, t in rows])
    clicks = read_clicks(path, requests, within_s=600)
    assert clicks.ranks == {"r0": (2, 4)}
    assert clicks.counts == {"counted": 2, "repeated": 1, "not shown": 1, "of other requests": 1, "too late": 1}


def test_experiments_are_not_mixed(tmp_path: Path) -> None:
    named = [entry(0, "u"), entry(1, "v", mode="shadow")]
    with pytest.raises(SuiteError, match="as served and as shadow"):
        select(read_log(traffic(tmp_path, named)).requests, None)


def test_files_that_were_put_aside_are_read_the_oldest_first(tmp_path: Path) -> None:
    log = RankingLog(tmp_path / "log", file_bytes=2000, files=50, queue_entries=10)
    for number in range(20):
        log._write([entry(number, f"u{number}")])
    read_back = read_log(tmp_path / "log")
    assert len(read_back.files) > 2
    assert [request.request_id for request in read_back.requests] == [f"r{number}" for number in range(20)]


# --- the command ------------------------------------------------------------------------------------------------


def test_the_command_tells_a_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, clicks = served(tmp_path, 0.15)
    assert podium(["eval", "ab", str(log), "--clicks", str(clicks)]) == 0
    said = capsys.readouterr().out
    assert "e: served, 2,000 requests" in said
    assert "clicked" in said
    assert podium(["eval", "ab", str(log), "--clicks", str(clicks), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["effects"]["clicked"]["difference"] > 0
    assert podium(["eval", "ab", str(log)]) == 2


def test_the_command_knows_labels_by_the_text_of_a_query(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", "s")
    entries = [entry(number, f"u{number}", query=fingerprint(f"query {number % 4}", b"s")) for number in range(200)]
    log = traffic(tmp_path, entries)
    (tmp_path / "qrels").write_text("".join(f"q{number} 0 d{number} 1\n" for number in range(4)))
    queries = written(tmp_path / "queries", [{"qid": f"q{number}", "query": f"query {number}"} for number in range(4)])
    command = ["eval", "ab", str(log), "--qrels", str(tmp_path / "qrels"), "--json"]
    assert podium(command) == 2  # nothing says which query is which
    assert "has labels" in capsys.readouterr().err
    assert podium([*command, "--queries", str(queries), "--secret-env", "A_SECRET"]) == 0
    effect = json.loads(capsys.readouterr().out)["effects"]["nDCG@10"]
    assert sum(effect["requests"]) == 200
    assert 0.4 < effect["incumbent"] < 1

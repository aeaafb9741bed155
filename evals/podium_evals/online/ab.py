"""Which of two pipelines is better, by what their requests came to: clicks, or labels.

- `served`: each key was on one side, so the two sides are compared, key by key drawn.
- `shadow`, and `interleaved` by labels: both ranked every request, so the requests are paired.
- `interleaved` by clicks: a click is a vote for whoever drafted the document; each key votes once in the sign test.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from podium_evals.online.estimates import (
    MISMATCH_P,
    Effect,
    effect_by_key,
    mismatch_p,
    paired_effect_by_key,
    sign_test,
)
from podium_evals.online.traffic import ARMS, CHALLENGER, INCUMBENT, Clicks, Ranking, Request
from podium_evals.suite import SuiteError
from podium_server.jobs.ndcg import ndcg

MISSING_MAX = 0.01
"""A larger part of requests without one of the two is warned of: those that are left are no fair sample."""


@dataclass(frozen=True, slots=True)
class ArmCost:
    """What the rankings of an arm took, a request: means, and two quantiles of the time.

    Args:
        pipeline: that ranked; several where the log has several.
        rankings: in the log.
        missing: requests that it should have ranked and did not, by reason.
        calls: of models.
        tokens: read and written.
        usd: None where a price is not known.
        wall_p50_s: of the ranking alone.
        wall_p95_s: likewise.

    """

    pipeline: str
    rankings: int
    missing: Mapping[str, int]
    calls: float
    tokens: float
    usd: float | None
    wall_p50_s: float
    wall_p95_s: float


@dataclass(frozen=True, slots=True)
class Preference:
    """An interleaving experiment, by clicks.

    Args:
        wins: requests on which the challenger's documents were clicked more.
        losses: on which the incumbent's were.
        ties: on which both were clicked alike.
        key_wins: keys whose requests the challenger won more often than it lost.
        key_losses: keys that went the other way.
        p: of the sign test over keys, two-sided.
        share: what the challenger has of the clicked requests, a tie counting half: `share.difference` is its share
            less a half.

    """

    wins: int
    losses: int
    ties: int
    key_wins: int
    key_losses: int
    p: float
    share: Effect


@dataclass(frozen=True, slots=True)
class Report:
    """What `podium eval ab` tells.

    Args:
        experiment: its name.
        mode: `served`, `shadow` or `interleaved`.
        requests: of it in the log.
        keys: of those.
        arms: by name.
        effects: by measure, the main one first.
        preference: of an interleaving by clicks.
        mismatch: the p of the sample ratio; None where there is none to test.
        notes: counts of what was left out.
        warnings: what makes the figures doubtful.

    """

    experiment: str
    mode: str
    requests: int
    keys: int
    arms: Mapping[str, ArmCost]
    effects: Mapping[str, Effect]
    preference: Preference | None
    mismatch: float | None
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default_factory=tuple)


def select(requests: Sequence[Request], experiment: str | None) -> list[Request]:
    """Return the requests of one experiment.

    Raises:
        SuiteError: there is none, or there are several and nobody says which, or it ran in several modes.

    """
    named = Counter(request.experiment for request in requests if request.experiment)
    if not named:
        raise SuiteError("the log has no request of any experiment; pipelines.<name>.challenger makes one")
    listed = ", ".join(f"{name} ({count:,})" for name, count in named.most_common())
    if experiment is None and len(named) > 1:
        raise SuiteError(f"the log has several experiments; name one with --experiment: {listed}")
    chosen = experiment or next(iter(named))
    found = [request for request in requests if request.experiment == chosen]
    if not found:
        raise SuiteError(f"the log has no experiment {chosen!r}; it has {listed}")
    modes = sorted({request.mode for request in found})
    if len(modes) > 1:
        raise SuiteError(
            f"{chosen!r} ran as {' and as '.join(modes)}; these cannot be put together: name experiments anew "
            "(pipelines.<name>.challenger.experiment), or cut the log"
        )
    return found


def by_clicks(requests: Sequence[Request], clicks: Clicks, *, seed: int = 0) -> Report:
    """Read an experiment by clicks.

    Raises:
        SuiteError: it was in the shadow, where nobody could click; or an arm is empty.

    """
    if requests[0].mode == "shadow":
        raise SuiteError(
            "nobody could click on a challenger in the shadow: read it by labels (--qrels), or serve it "
            "(mode = 'served' or 'interleaved')"
        )
    notes = tuple(f"clicks: {count:,} {what}" for what, count in clicks.counts.items() if what != "counted")
    if requests[0].mode == "interleaved":
        return _report(requests, {}, _preference(requests, clicks, seed), notes)
    measures: dict[str, Callable[[tuple[int, ...]], float]] = {
        "clicked": lambda ranks: float(bool(ranks)),
        "clicks": lambda ranks: float(len(ranks)),
        "RR of the first click": lambda ranks: 1 / ranks[0] if ranks else 0.0,
    }
    keys, arms = _sides(requests)
    effects = {
        name: _tried(
            lambda value=value: effect_by_key(  # type: ignore[misc]
                keys, arms, [value(clicks.ranks.get(request.request_id, ())) for request in requests], seed=seed
            )
        )
        for name, value in measures.items()
    }
    return _report(requests, effects, None, notes)


def by_labels(
    requests: Sequence[Request],
    labels_of: Callable[[Request], Mapping[str, float] | None],
    *,
    k: int = 10,
    seed: int = 0,
) -> Report:
    """Read an experiment by labels: nDCG@k of what each arm ranked.

    Args:
        requests: of one experiment.
        labels_of: gives a request's labels by document, or None where it has none.
        k: ranks that count.
        seed: of the bootstrap.

    Raises:
        SuiteError: no request has labels, or an arm is empty.

    """
    labelled = [(request, labels) for request in requests if (labels := labels_of(request))]
    if not labelled:
        raise SuiteError(
            f"none of the {len(requests):,} requests has labels: give --queries, a request id that is the qid, or the "
            "secret of the fingerprints"
        )
    notes = [f"requests: {len(requests) - len(labelled):,} without labels"] if len(labelled) < len(requests) else []

    def value(request: Request, arm: str, labels: Mapping[str, float]) -> float:
        ranking = request.rankings.get(arm)
        ids = ranking.ids if ranking else ()  # an error shows nobody anything
        return ndcg([labels.get(docid, 0.0) for docid in ids[:k]], labels.values(), k)

    if requests[0].mode == "served":
        keys, arms = _sides([request for request, _ in labelled])
        values = [value(request, request.arm, labels) for request, labels in labelled]
        effect = _tried(lambda: effect_by_key(keys, arms, values, seed=seed))
    else:
        both = [(request, labels) for request, labels in labelled if set(ARMS) <= set(request.rankings)]
        if len(both) < len(labelled):
            notes.append(f"requests: {len(labelled) - len(both):,} that only one of the two ranked")
        if not both:
            raise SuiteError("no request with labels was ranked by both")
        effect = _tried(
            lambda: paired_effect_by_key(
                [request.key for request, _ in both],
                [value(request, INCUMBENT, labels) for request, labels in both],
                [value(request, CHALLENGER, labels) for request, labels in both],
                seed=seed,
            )
        )
    return _report(requests, {f"nDCG@{k}": effect}, None, tuple(notes))


# --- parts ------------------------------------------------------------------------------------------------------


def _sides(requests: Sequence[Request]) -> tuple[list[str], list[bool]]:
    return [request.key for request in requests], [request.arm == CHALLENGER for request in requests]


def _tried(compute: Callable[[], Effect]) -> Effect:
    try:
        return compute()
    except ValueError as error:
        raise SuiteError(f"the experiment cannot be read: {error}") from error


def _preference(requests: Sequence[Request], clicks: Clicks, seed: int) -> Preference:
    keys: list[str] = []
    won: list[float] = []
    by_key: defaultdict[str, int] = defaultdict(int)
    tally: Counter[int] = Counter()
    for request in requests:
        ranks = [rank for rank in clicks.ranks.get(request.request_id, ()) if rank <= len(request.teams)]
        if not request.interleaved or not ranks:
            continue
        theirs = sum(request.teams[rank - 1] == "C" for rank in ranks)
        sign = (theirs > len(ranks) - theirs) - (theirs < len(ranks) - theirs)
        tally[sign] += 1
        by_key[request.key] += sign
        keys.append(request.key)
        won.append((sign + 1) / 2)
    if not keys:
        raise SuiteError("no interleaved answer was clicked on")
    key_wins = sum(votes > 0 for votes in by_key.values())
    key_losses = sum(votes < 0 for votes in by_key.values())
    share = _tried(lambda: paired_effect_by_key(keys, [0.5] * len(keys), won, seed=seed))
    return Preference(tally[1], tally[-1], tally[0], key_wins, key_losses, sign_test(key_wins, key_losses), share)


def _report(
    requests: Sequence[Request], effects: Mapping[str, Effect], preference: Preference | None, notes: tuple[str, ...]
) -> Report:
    first = requests[0]
    arms = {arm: _arm_cost(requests, arm) for arm in ARMS}
    mismatch, warnings = _checks(requests)
    return Report(
        first.experiment,
        first.mode,
        len(requests),
        len({request.key for request in requests}),
        arms,
        effects,
        preference,
        mismatch,
        notes,
        tuple(warnings),
    )


def _checks(requests: Sequence[Request]) -> tuple[float | None, list[str]]:
    """Return the p of the sample ratio, and what is doubtful."""
    warnings: list[str] = []
    if requests[0].mode != "served":
        return _first_picks(requests, warnings), warnings
    keys: dict[tuple[float, str], str] = {}
    for request in requests:
        keys.setdefault((request.share, request.key), request.arm)
    shares = sorted({share for share, _ in keys})
    of = [sum(share == one for one, _ in keys) for share in shares]
    seen = [sum(arm == CHALLENGER for (one, _), arm in keys.items() if one == share) for share in shares]
    p = mismatch_p(seen, shares, of)
    if p < MISMATCH_P:
        wanted = ", ".join(f"{share:.3g}" for share in shares)
        warnings.append(
            f"SAMPLE RATIO MISMATCH: the challenger has {sum(seen):,} of {sum(of):,} keys, where {wanted} of them were "
            f"to be its own (p = {p:.1g}). Requests of one arm are lost, or logged twice: find out why before you "
            "believe any difference"
        )
    if len(shares) > 1:
        warnings.append(f"the share was changed ({', '.join(f'{share:.3g}' for share in shares)}) while it ran")
    both = Counter(key for key, _ in {(request.key, request.arm) for request in requests})
    moved = sum(count > 1 for count in both.values())
    if moved:
        warnings.append(f"{moved:,} keys were on both sides: assignment is sticky while experiment and share stay")
    return p, warnings


def _first_picks(requests: Sequence[Request], warnings: list[str]) -> float | None:
    """Check who is missing, and for drafts that the coins were fair; return the p of the latter."""
    alone = Counter(request.missing[CHALLENGER] for request in requests if CHALLENGER in request.missing)
    if sum(alone.values()) > MISSING_MAX * len(requests):
        listed = ", ".join(f"{count:,} {why}" for why, count in alone.most_common())
        warnings.append(
            f"the challenger has no ranking for {sum(alone.values()):,} of {len(requests):,} requests ({listed}): "
            "those that are left may be the easy ones"
        )
    firsts = [request.teams[0] for request in requests if request.teams]
    if not firsts:
        return None
    p = mismatch_p([firsts.count("C")], [0.5], [len(firsts)])
    if p < MISMATCH_P:
        warnings.append(
            f"SAMPLE RATIO MISMATCH: the challenger drafted first in {firsts.count('C'):,} of {len(firsts):,} answers "
            f"(p = {p:.1g})"
        )
    return p


def _arm_cost(requests: Sequence[Request], arm: str) -> ArmCost:
    rankings: list[Ranking] = [request.rankings[arm] for request in requests if arm in request.rankings]
    missing = Counter(request.missing[arm] for request in requests if arm in request.missing)
    n = max(1, len(rankings))
    costs = [ranking.cost_nano_usd for ranking in rankings]
    known = [cost for cost in costs if cost is not None]
    walls = sorted(ranking.wall_s for ranking in rankings)
    return ArmCost(
        pipeline=" and ".join(sorted({ranking.pipeline for ranking in rankings})),
        rankings=len(rankings),
        missing=dict(missing),
        calls=sum(ranking.calls for ranking in rankings) / n,
        tokens=sum(ranking.tokens for ranking in rankings) / n,
        usd=sum(known) / n / 1e9 if len(known) == len(costs) else None,
        wall_p50_s=_quantile(walls, 0.5),
        wall_p95_s=_quantile(walls, 0.95),
    )


def _quantile(ordered: Sequence[float], at: float) -> float:
    return ordered[min(len(ordered) - 1, int(at * len(ordered)))] if ordered else 0.0

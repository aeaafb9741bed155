"""Fits a fusion: scores of every signal on the development lists, then the grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from podium_server.backends.processors import usable_processors
from podium_server.errors import ConfigInvalid
from podium_server.training import fusion
from podium_server.training.development import Measured, mean
from podium_server.training.gathering import Gathering
from podium_server.training.job import Order, Result, Watcher
from podium_server.training.measures import compared
from podium_server.training.recipe import FIRST_STAGE, Fusing, Recipe, Signal, Voice
from podium_server.training.recipe_file import data_folders
from podium_server.training.torch_bodies import located
from podium_server.training.torch_loop import Loop
from podium_server.training.torch_students import load_student

PIPELINE_FILE = "pipeline.toml"
CARD_FILE = "README.md"

Signals = dict[str, dict[str, list[fusion.Floats]]]
"""Set → signal → list → standardised scores."""


def fuse(order: Order, recipe: Fusing, watcher: Watcher) -> Result:
    """Fit the weights and write `pipeline.toml` and a card.

    Raises:
        ConfigInvalid: a model or a list cannot be used.

    """
    torch.set_num_threads(recipe.training.threads or usable_processors())
    gathered = Gathering(recipe, data_folders(order.recipe, order.data), order.cache, watcher.preparing).gather()
    for remark in gathered.remarks:
        watcher.remark(remark)
    signals = _signals(recipe, gathered.sets, watcher)
    deciding = [each for each in gathered.sets if not each.after]
    found = fusion.fitted(deciding, signals, recipe)
    watcher.remark(f"{found.points:,} points; the best {found.best:.4f}, the mean of the best {found.value:.4f}")
    equal = dict.fromkeys(found.weights, 1.0)
    results = {}
    for each in gathered.sets:
        fused = fusion.values(each, signals[each.name], found.weights)
        voices = {"fused": compared(fusion.values(each, signals[each.name], equal), fused)}
        for name in found.weights:
            voices[name] = compared(fusion.values(each, signals[each.name], {name: 1.0}), fused)
        results[each.name] = (mean(each.as_given()), voices)
    order.out.mkdir(parents=True, exist_ok=True)
    (order.out / PIPELINE_FILE).write_text(fusion.pipeline(recipe, found.weights), encoding="utf-8")
    result = Result(order.out, results, 0, 0, gathered.remarks)
    names = ", ".join(each.name for each in deciding)
    (order.out / CARD_FILE).write_text(_card(order, recipe, found, result, names), encoding="utf-8")
    return result


def _signals(recipe: Fusing, sets: Sequence[Measured], watcher: Watcher) -> Signals:
    signals: Signals = {each.name: {} for each in sets}
    scored: dict[tuple[str, str], list[dict[Voice, list[float]]]] = {}
    for signal in recipe.signal:
        if signal.model == FIRST_STAGE:
            for each in sets:
                signals[each.name][signal.name] = fusion.first_stage(each)
            continue
        if (signal.model, sets[0].name) not in scored:
            for name, scores in _scores(recipe, signal, sets, watcher).items():
                scored[signal.model, name] = scores
        for each in sets:
            own = scored[signal.model, each.name]
            voice = _voice(signal, own[0])
            signals[each.name][signal.name] = [fusion.standardised(scores[voice]) for scores in own]
    return signals


def _voice(signal: Signal, scores: Mapping[Voice, list[float]]) -> Voice:
    voice = signal.voice or ("logit" if "logit" in scores else "maxsim")
    if voice not in scores:
        raise ConfigInvalid(
            f"signal {signal.name!r}: {signal.model} has no voice {voice!r} (it has: {', '.join(scores)})"
        )
    return voice


def _scores(
    recipe: Fusing, signal: Signal, sets: Sequence[Measured], watcher: Watcher
) -> dict[str, list[dict[Voice, list[float]]]]:
    student = load_student(Path(located(signal.model)))
    whole = Recipe.model_construct(student=student.student, training=recipe.training, data=(), development=())
    loop = Loop(whole, student, (), None, {})
    found = {}
    for each in sets:
        done = 0

        def count(more: int, of: Measured = each) -> None:
            nonlocal done
            done += more
            watcher.preparing(f"{signal.name} on {of.name}", done, of.documents)

        found[each.name] = loop.scores([(judged.query, judged.texts) for judged in each.lists], count)
    return found


def _card(order: Order, recipe: Fusing, found: fusion.Fitted, result: Result, deciding: str) -> str:
    lines = [
        f"# {order.out.resolve().name}: a fusion\n",
        _how(deciding, found),
        "| set | queries | as given | against | nDCG@10 of it | fused | gain | better / worse | p |",
        "| --- " * 9 + "|",
    ]
    for name, (given, voices) in result.results.items():
        for voice, each in voices.items():
            against = "equal weights" if voice == "fused" else f"{voice} alone"
            lines.append(
                f"| {name} | {each.queries} | {given:.4f} | {against} | {each.before:.4f} | {each.after:.4f} "
                f"| {each.after - each.before:+.4f} | {each.better} / {each.worse} | {each.p:.4f} |"
            )
    lines += ["", "```toml", fusion.pipeline(recipe, found.weights).strip(), "```", "", "```", order.command, "```", ""]
    lines.append(f"Recipe `{recipe.fingerprint()}`.\n")
    return "\n".join(lines)


def _how(deciding: str, found: fusion.Fitted) -> str:
    return (
        f"Weights fitted on {deciding}: the mean of the {found.averaged} best of {found.points:,} points "
        f"(best {found.best:.4f}, these {found.value:.4f}). The other sets decided nothing.\n"
    )

"""A training from recipe to folder."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import transformers

from podium_server.backends.openvino.convert import convert
from podium_server.backends.processors import usable_processors
from podium_server.errors import ConfigInvalid
from podium_server.training import card, curve
from podium_server.training.development import Measured, mean
from podium_server.training.gathering import Gathered, Gathering
from podium_server.training.history import History, Values
from podium_server.training.job import Order, Result, Watcher
from podium_server.training.measures import compared
from podium_server.training.recipe import IN_BATCH, Recipe, Voice
from podium_server.training.recipe_file import data_folders
from podium_server.training.torch_bodies import STUDENT_FILE, located
from podium_server.training.torch_folder import write
from podium_server.training.torch_loop import CHECKPOINTS_KEPT, Loop, written
from podium_server.training.torch_students import Classifying, Encoding, JointMaxSim, TorchStudent, build, load_student

WORK = "training"
LOG_FILE = "training.jsonl"
CHECKPOINTS = "checkpoint-*.pt"
BEST_FILE = "best.pt"
UNBLENDED = "unblended"


@dataclass(slots=True)
class Job:
    """A training under way: gather, build, measure, learn, keep, measure again, write."""

    order: Order
    recipe: Recipe
    watcher: Watcher
    _log: Any = None

    @property
    def work(self) -> Path:
        """The folder, within the student's, of what the training itself keeps."""
        return self.order.out / WORK

    def run(self) -> Result:
        """Train, from the beginning or from the last checkpoint."""
        checkpoint = self._checkpoint()
        folders = data_folders(self.order.recipe, self.order.data)
        gathered = Gathering(self.recipe, folders, self.order.cache, self.watcher.preparing).gather()
        for remark in gathered.remarks:
            self.watcher.remark(remark)
        loop = self._loop(gathered)
        self.work.mkdir(parents=True, exist_ok=True)
        text = self.order.recipe.read_text("utf-8")
        if checkpoint is None:
            (self.work / "recipe.toml").write_text(text, encoding="utf-8")
        history = self._begin(loop, gathered, checkpoint)
        self._learn(loop, gathered, history)
        return self._finish(loop, gathered, history, text)

    # --- before -------------------------------------------------------------------------------------------------

    def _checkpoint(self) -> Path | None:
        """Return what to go on from.

        Raises:
            ConfigInvalid: the folder holds another run, or none to go on from.

        """
        kept = sorted(self.work.glob(CHECKPOINTS))
        if self.order.resume:
            if not kept and not self.work.exists():
                self.watcher.remark(f"{self.order.out} holds nothing to go on from; beginning")
            return kept[-1] if kept else None
        if kept or (self.order.out / STUDENT_FILE).exists():
            raise ConfigInvalid(
                f"{self.order.out} holds a training already; --resume goes on with it, or name another folder"
            )
        return None

    def _loop(self, gathered: Gathered) -> Loop:
        training = self.recipe.training
        torch.set_num_threads(training.threads or usable_processors())
        torch.manual_seed(training.seed)
        # Bars and warnings about the library's own insides; what matters here the watcher is told.
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self.watcher.preparing(f"loading {self.recipe.student.start}", 0, None)
        device = training.device if training.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        student = build(self.recipe.student)
        if isinstance(student, Encoding) and "projection.weight" not in student.inherited:
            kept = student.fit_projection(_texts(gathered), training.microbatch)
            if student.projection is not None:
                width = self.recipe.student.token_dim
                self.watcher.remark(
                    f"the projection to {width} dimensions keeps {kept:.1%} of the start's token vectors"
                )
        student.to(device)
        teacher = None
        if self.recipe.teacher is not None or training.anchor:
            named = self.recipe.teacher.model if self.recipe.teacher is not None else "start"
            teacher = load_student(Path(self._located(named)))
            voice = self.recipe.teacher.voice if self.recipe.teacher is not None else None
            if voice is not None and voice not in teacher.student.voices:
                known = ", ".join(teacher.student.voices)
                raise ConfigInvalid(f"teacher.voice is {voice!r}; {named!r} has none such (it has: {known})")
            _check_anchor(training.anchor, gathered, teacher, named)
            teacher.to(device).requires_grad_(False)
        loop = Loop(self.recipe, student, gathered.streams, teacher, {})
        loop.start = loop.weights()
        return loop

    def _located(self, model: str) -> str:
        return located(self.recipe.student.start if model == "start" else model)

    def _begin(self, loop: Loop, gathered: Gathered, checkpoint: Path | None) -> History:
        before = self.work / "before.json"
        if checkpoint is not None:
            loop.resume(checkpoint)
            self._forget_later(loop)
            history = History.read(self.work / LOG_FILE, until=loop.state.step)
            history.before = json.loads(before.read_text("utf-8"))
            self.watcher.remark(f"going on from step {loop.state.step:,}")
        else:
            history = History()
            history.before = self._baseline(loop, gathered)
            before.write_text(json.dumps(history.before), encoding="utf-8")
            values = self._deciding(history.before, gathered.sets)
            history.lines.append({"step": 0, "measured": values})
            self.watcher.measured(0, values, best=False)
        history.write(self.work / LOG_FILE)
        self._log = (self.work / LOG_FILE).open("a", encoding="utf-8")
        return history

    def _forget_later(self, loop: Loop) -> None:
        """Let go of best weights of a step beyond the checkpoint; those before them are gone.

        The steps are done again, and find them again; a run that the clock ends may not come so far. Whoever is killed
        again before the next checkpoint finds neither.
        """
        file, state = self.work / BEST_FILE, loop.state
        if self.recipe.training.keep != "best":
            return
        step = torch.load(file, map_location="cpu", weights_only=True)["step"] if file.is_file() else 0
        if step != state.best_step:
            file.unlink(missing_ok=True)
            state.best, state.best_step, state.waited = -math.inf, 0, 0

    def _baseline(self, loop: Loop, gathered: Gathered) -> Values:
        """Measure the start; with a fresh head, which knows nothing, the score of the encoder that it was put on."""
        start = Path(self._located("start"))
        if not isinstance(loop.student, Classifying | JointMaxSim) or _reads(start):
            return self._measure(loop, gathered.sets, "the start")
        encoder = load_student(start).to(loop.student.device)
        recipe = self.recipe.model_copy(
            update={"student": encoder.student.model_copy(update={"max_tokens": self.recipe.student.max_tokens})}
        )
        values = self._measure(Loop(recipe, encoder, (), None, {}), gathered.sets, "the start")
        return {name: {"logit": voices[encoder.student.voices[0]]} for name, voices in values.items()}

    # --- during -------------------------------------------------------------------------------------------------

    def _learn(self, loop: Loop, gathered: Gathered, history: History) -> None:
        training = self.recipe.training
        state = loop.state
        deciding = [each for each in gathered.sets if not each.after]
        if training.patience is not None and state.waited >= training.patience:
            return
        for losses in loop.steps():
            self._note(
                history, {"step": state.step, "losses": {k: round(v, 6) for k, v in losses.items()}, "lr": loop.rate}
            )
            self.watcher.step(state.step, training.steps, losses, loop.share, state.elapsed_s)
            last = state.step >= training.steps or loop.share >= 1
            stop = False
            if state.step % training.evaluate_every == 0 or last:
                stop = self._evaluate(loop, deciding, history)
            if state.step % training.checkpoint_every == 0 or last or stop:
                self._save(loop)
            if stop:
                self.watcher.remark(f"stopped at step {state.step:,}: no better since step {state.best_step:,}")
                return

    def _evaluate(self, loop: Loop, sets: list[Measured], history: History) -> bool:
        """Measure, keep the weights if they are the best; return whether to stop."""
        state, training = loop.state, self.recipe.training
        with loop.serving():
            values = self._deciding(self._measure(loop, sets, ""), sets)
        value = sum(each.weight * values[each.name] for each in sets) / sum(each.weight for each in sets)
        better = value > state.best
        if better:
            state.best, state.best_step, state.waited = value, state.step, 0
            if training.keep == "best":
                written(self.work / BEST_FILE, {"weights": loop.weights(), "step": state.step})
        else:
            state.waited += 1
        self._note(history, {"step": state.step, "measured": values})
        self.watcher.measured(state.step, values, best=better)
        self._draw(history, loop)
        return training.patience is not None and state.waited >= training.patience

    def _save(self, loop: Loop) -> None:
        # The log first: a checkpoint without its log would have no past.
        self._log.flush()
        os.fsync(self._log.fileno())
        loop.save(self.work / f"checkpoint-{loop.state.step:08}.pt")
        for old in sorted(self.work.glob(CHECKPOINTS))[:-CHECKPOINTS_KEPT]:
            old.unlink()

    def _measure(self, loop: Loop, sets: Any, what: str) -> Values:
        values: Values = {}
        for each in sets:
            done = 0

            def count(more: int, of: Measured = each) -> None:
                nonlocal done
                done += more
                self.watcher.preparing(f"measuring {what or 'the student'} on {of.name}", done, of.documents)

            scores = loop.scores([(judged.query, judged.texts) for judged in each.lists], count)
            voices = list(scores[0])
            values[each.name] = {voice: each.values([own[voice] for own in scores]) for voice in voices}
        return values

    def _deciding(self, values: Values, sets: Any) -> dict[str, float]:
        voice = self.recipe.measured_voice
        return {each.name: round(mean(values[each.name][voice]), 6) for each in sets if each.name in values}

    def _note(self, history: History, line: dict[str, Any]) -> None:
        history.lines.append(line)
        self._log.write(json.dumps(line) + "\n")

    def _draw(self, history: History, loop: Loop) -> None:
        kept = loop.state.best_step if self.recipe.training.keep == "best" and math.isfinite(loop.state.best) else None
        title = f"{self._name()}: nDCG@10 by {self.recipe.measured_voice}"
        picture = curve.drawn(title, history.measured(), curve.smoothed(history.losses()), kept)
        (self.work / "curve.svg").write_text(picture, encoding="utf-8")

    # --- after --------------------------------------------------------------------------------------------------

    def _finish(self, loop: Loop, gathered: Gathered, history: History, text: str) -> Result:
        state, training = loop.state, self.recipe.training
        kept_step, weights = state.step, loop.weights()
        if training.keep == "best" and (self.work / BEST_FILE).is_file():
            best = torch.load(self.work / BEST_FILE, map_location="cpu", weights_only=True)
            kept_step, weights = int(best["step"]), best["weights"]
        said = {"recipe": self.recipe.fingerprint(), "step": kept_step, "training": training.model_dump(mode="json")}
        if training.blend != 1:
            # A cross-encoder that begins with this student may begin better with all that it has learnt.
            loop.student.load_state_dict(weights)
            write(loop.student, self.work / UNBLENDED, {**said, "blend": 1})
        loop.student.load_state_dict(loop.blended(weights))
        began = time.monotonic()
        after = self._measure(loop, gathered.sets, "the result")
        rate = sum(each.documents for each in gathered.sets) / max(time.monotonic() - began, 1e-6)
        results = {
            each.name: (
                mean(each.as_given()),
                {
                    voice: compared(history.before[each.name].get(voice, {}), own, seed=training.seed)
                    for voice, own in _first(after[each.name], self.recipe.measured_voice).items()
                },
            )
            for each in gathered.sets
        }
        self._draw(history, loop)
        self._log.close()
        write(loop.student, self.order.out, said)
        converted(self.order.out, self.recipe)
        made = card.Made(
            name=self._name(),
            command=self.order.command or f"podium distil {self.order.recipe} --out {self.order.out}",
            recipe_text=text,
            streams=gathered.streams,
            results=results,
            after_only=frozenset(each.name for each in gathered.sets if each.after),
            versions=_versions(),
            facts=card.facts_of(self.recipe, self._facts(loop, kept_step, rate)),
            remarks=gathered.remarks,
            baseline=_baseline_words(self.recipe),
        )
        (self.order.out / "README.md").write_text(card.written(made, self.recipe), encoding="utf-8")
        (self.work / "after.json").write_text(json.dumps(after), encoding="utf-8")
        return Result(self.order.out, results, kept_step, state.step, gathered.remarks)

    def _name(self) -> str:
        return self.recipe.student.name or self.order.out.resolve().name

    def _facts(self, loop: Loop, kept_step: int, rate: float) -> dict[str, str]:
        state = loop.state
        minutes = state.elapsed_s / 60
        timed = loop.recipe.training.minutes_max is not None and state.step < loop.recipe.training.steps
        return {
            "steps": f"{state.step:,}, kept: {kept_step:,}"
            + (" (ended by minutes_max, so not reproducible)" if timed else ""),
            "time": f"{minutes:.1f} minutes of steps, {state.documents / max(state.elapsed_s, 1e-6):.0f} texts/s",
            "speed, torch": f"{rate:.0f} documents/s when measured, {self.recipe.student.max_tokens} tokens at most",
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {loop.student.device}",
        }


def _check_anchor(anchor: float, gathered: Gathered, teacher: TorchStudent, named: str) -> None:
    """Refuse an anchor that some entries would not feel.

    Raises:
        ConfigInvalid: with the entry.

    """
    if not anchor or teacher.student.kind != "cross-encoder":
        return
    for stream in gathered.streams:
        if IN_BATCH in stream.data.losses:
            raise ConfigInvalid(
                f"data {stream.data.name!r}: training.anchor is {anchor:g}, and the teacher {named!r} reads a query "
                f"with one passage at a time, so that it says nothing of a batch (loss {IN_BATCH!r}); name another "
                "loss (kl), another teacher, or set anchor = 0"
            )


def _reads(folder: Path) -> bool:
    """Tell whether a start reads query and passage together already, so that its head is not fresh."""
    if (folder / STUDENT_FILE).is_file():
        return bool(json.loads((folder / STUDENT_FILE).read_text("utf-8"))["student"]["kind"] == "cross-encoder")
    config = json.loads((folder / "config.json").read_text("utf-8")) if (folder / "config.json").is_file() else {}
    return any("SequenceClassification" in name for name in config.get("architectures") or ())


def converted(folder: Path, recipe: Recipe) -> None:
    """Write the OpenVINO model beside the weights."""
    part = folder / ".converting"
    try:
        convert(folder, part, kind="cross-encoder" if recipe.student.kind == "cross-encoder" else "encoder")
        for file in part.iterdir():
            file.replace(folder / file.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _first(voices: Mapping[str, dict[str, float]], voice: Voice) -> dict[str, dict[str, float]]:
    return {voice: voices[voice], **{name: own for name, own in voices.items() if name != voice}}


def _texts(gathered: Gathered, most: int = 600) -> list[str]:
    """Return texts of every stream, queries among them: what the projection is fitted to."""
    texts: list[str] = []
    share = max(8, most // max(1, len(gathered.streams)))
    for stream in gathered.streams:
        of_stream: list[str] = []
        for k in range(min(len(stream.examples), share)):
            drawn = stream.draw(k)
            of_stream += [*drawn.texts[:3], drawn.query]
        texts += of_stream[:share]
    return texts[:most]


def _baseline_words(recipe: Recipe) -> str:
    cut = "" if recipe.student.layers is None else ", cut to the layers that the student keeps"
    if recipe.student.kind == "cross-encoder":
        fresh = "where the head is fresh, the score of the encoder that it was put on (MaxSim + cosine / 2)"
        return f"the start{cut}; {fresh}"
    return f"the start, untrained{cut}" + (", projected" if recipe.student.kind == "late-interaction" else "")


def _versions() -> dict[str, str]:
    known = {}
    for name in ("podium", "torch", "transformers", "sentence-transformers"):
        try:
            known[name] = version(name)
        except PackageNotFoundError:
            continue
    return {"Python": platform.python_version(), **known}

"""The loop: draws, a step, a measurement, a checkpoint. The same seed on the same machine gives the same weights."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from podium_server.errors import ConfigInvalid, PodiumError
from podium_server.training.draws import Drawn, Stream
from podium_server.training.recipe import IN_BATCH, Recipe, Voice
from podium_server.training.torch_losses import in_batch, kl, mixed
from podium_server.training.torch_students import Asked, JointMaxSim, Scores, TorchStudent

CHECKPOINTS_KEPT = 2
_TEXTS_MEASURED_TOGETHER = 128


@dataclass(slots=True)
class State:
    """How far a run is: all that a resumed one needs beside weights and optimiser.

    Args:
        step: steps done.
        elapsed_s: of training, measurements not counted.
        best: the best measurement so far.
        best_step: when.
        waited: measurements since then.
        documents: texts that went through the student.

    """

    step: int = 0
    elapsed_s: float = 0.0
    best: float = -math.inf
    best_step: int = 0
    waited: int = 0
    documents: int = 0


@dataclass(slots=True)
class Loop:
    """A student under training.

    Args:
        recipe: of it.
        student: with its head.
        streams: an entry's draws each, in the order of the recipe.
        teacher: scores what is drawn; None where nobody asks for it.
        start: the weights at the beginning, for `blend`.

    """

    recipe: Recipe
    student: TorchStudent
    streams: Sequence[Stream]
    teacher: TorchStudent | None
    start: Mapping[str, Tensor]
    state: State = field(default_factory=State)
    optimiser: torch.optim.Optimizer = field(init=False)
    _rates: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.optimiser = self._optimiser()
        self._rates = [group["lr"] for group in self.optimiser.param_groups]

    # --- a step -------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[dict[str, float]]:
        """Do one step after another until the recipe's end; yield its losses by entry, `loss` the sum."""
        training = self.recipe.training
        while self.state.step < training.steps and self.share < 1:
            begun = time.monotonic()
            losses = self._step()
            self.state.step += 1
            self.state.elapsed_s += time.monotonic() - begun
            yield losses

    @property
    def share(self) -> float:
        """How much of the run is done, by steps or by time, whichever is further."""
        training = self.recipe.training
        by_time = self.state.elapsed_s / 60 / training.minutes_max if training.minutes_max else 0.0
        return min(1.0, max(self.state.step / training.steps, by_time))

    @property
    def rate(self) -> float:
        """The learning rate of the next step: up linearly, then down to 0."""
        training = self.recipe.training
        up = min(1.0, (self.state.step + 1) / training.warmup_steps) if training.warmup_steps else 1.0
        return training.lr * up * (1 - self.share)

    def _step(self) -> dict[str, float]:
        step = self.state.step
        # Dropout's chance is a function of the step, so that a resumed run meets the same.
        torch.manual_seed(self.recipe.training.seed * 1_000_003 + step)
        self.student.train()
        factor = self.rate / self.recipe.training.lr
        for group, rate in zip(self.optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        drawn = [stream.of_step(step) for stream in self.streams]
        total, losses = self._loss(drawn)
        if total is None:
            return losses
        if not math.isfinite(losses["loss"]):
            parts = ", ".join(f"{name} {value:.3g}" for name, value in losses.items())
            raise PodiumError(
                f"the loss at step {step + 1} is no number ({parts}); the last checkpoint is good: "
                "lower training.lr, or look at the targets of the entry that is"
            )
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()
        learning = [p for p in self.student.parameters() if p.requires_grad]
        nn.utils.clip_grad_norm_(learning, self.recipe.training.clip)
        self.optimiser.step()
        return losses

    def _loss(self, drawn: Sequence[Sequence[Drawn]]) -> tuple[Tensor | None, dict[str, float]]:
        lists = [(stream, each) for stream, part in zip(self.streams, drawn, strict=True) for each in part]
        if not lists:
            return None, {"loss": 0.0}
        asked = [self._asked(stream, each) for stream, each in lists]
        batches = self._batches(lists)
        microbatch = self.recipe.training.microbatch
        self.state.documents += sum(len(each.texts) for each in asked)
        with self._precision():
            scores, matrices = self.student(asked, batches, microbatch)
            taught = self._taught(lists, asked, batches)
        total: Tensor | None = None
        losses: dict[str, float] = {}
        for stream in self.streams:
            own = [at for at, (of, _) in enumerate(lists) if of is stream]
            if not own or (own[0] in {i for batch in batches for i in batch}):
                continue
            mean = torch.stack([self._of_list(stream, lists[at][1], scores[at], taught[0][at]) for at in own]).mean()
            losses[stream.data.name] = float(mean.detach())
            total = stream.data.weight * mean + (0 if total is None else total)
        for number, batch in enumerate(batches):
            stream = lists[batch[0]][0]
            mean = self._of_batch([lists[at][1] for at in batch], matrices[number], taught[1][number])
            losses[stream.data.name] = float(mean.detach())
            total = stream.data.weight * mean + (0 if total is None else total)
        losses["loss"] = float(total.detach()) if total is not None else 0.0
        return total, losses

    def _asked(self, stream: Stream, drawn: Drawn) -> Asked:
        data, student = stream.data, self.recipe.student
        most = min(data.max_tokens, student.max_tokens)
        return Asked(drawn.query, drawn.texts, most, data.max_query_tokens or student.max_query_tokens)

    def _batches(self, lists: Sequence[tuple[Stream, Drawn]]) -> list[list[int]]:
        return [
            [at for at, (of, _) in enumerate(lists) if of is stream]
            for stream in self.streams
            if IN_BATCH in stream.data.losses and any(of is stream for of, _ in lists)
        ]

    def _taught(
        self, lists: Sequence[tuple[Stream, Drawn]], asked: Sequence[Asked], batches: Sequence[Sequence[int]]
    ) -> tuple[list[Tensor | None], list[Tensor | None]]:
        """Return the teacher's logits of each list and of each batch, None where nobody wants them."""
        wanted = self.recipe.training.anchor > 0
        some = [wanted or drawn.to_teacher != 0 for _, drawn in lists]
        nothing: tuple[list[Tensor | None], list[Tensor | None]] = ([None] * len(lists), [None] * len(batches))
        if self.teacher is None or not any(some):
            return nothing
        settings = self.recipe.teacher
        voice = (settings.voice if settings else None) or self.teacher.student.voices[0]
        scale = (settings.scale if settings else 20.0) / self.teacher.student.temperature
        scale = 1.0 if voice == "logit" else scale
        self.teacher.eval()
        if self.teacher.student.kind == "cross-encoder":
            batches = []
        with torch.no_grad():
            scores, matrices = self.teacher(asked, batches, self.recipe.training.microbatch)
        of_lists = [scale * each[voice] if voice in each else None for each in scores]
        return of_lists, [scale * each[voice] for each in matrices] or nothing[1]

    def _of_list(self, stream: Stream, drawn: Drawn, scores: Scores, taught: Tensor | None) -> Tensor:
        device = self.student.device
        targets = torch.tensor(drawn.targets, device=device)
        if drawn.to_teacher and taught is not None:
            targets = targets + drawn.to_teacher * taught
        losses = stream.data.losses or {"kl": 1.0}
        total = targets.new_zeros(())
        for voice, weight in self.recipe.learning_voices.items():
            total = total + weight * mixed(losses, scores[voice], targets)
        if self.recipe.training.anchor and taught is not None:
            total = total + self.recipe.training.anchor * self._anchored(scores, taught)
        return total

    def _of_batch(self, drawn: Sequence[Drawn], matrix: Scores, taught: Tensor | None) -> Tensor:
        texts = [each.texts[0] for each in drawn] + [text for each in drawn for text in each.texts[1:]]
        queries = [each.query for each in drawn]
        same = torch.tensor(
            [
                [
                    at != row and (text == texts[row] or (at < len(drawn) and queries[at] == queries[row]))
                    for at, text in enumerate(texts)
                ]
                for row in range(len(drawn))
            ],
            device=self.student.device,
        )
        total = torch.zeros((), device=self.student.device)
        for voice, weight in self.recipe.learning_voices.items():
            total = total + weight * in_batch(matrix[voice], same)
        if self.recipe.training.anchor and taught is not None:
            rows = [self._anchored({v: m[row] for v, m in matrix.items()}, taught[row]) for row in range(len(drawn))]
            total = total + self.recipe.training.anchor * torch.stack(rows).mean()
        return total

    def _anchored(self, scores: Scores, taught: Tensor) -> Tensor:
        return kl(scores[self.recipe.student.voices[0]], taught)

    def _precision(self) -> Any:
        if self.recipe.training.precision == "bf16":
            return torch.autocast(self.student.device.type, torch.bfloat16)
        return nullcontext()

    # --- measuring ----------------------------------------------------------------------------------------------

    def scores(
        self, lists: Sequence[tuple[str, Sequence[str]]], each: Callable[[int], None] | None = None
    ) -> list[dict[Voice, list[float]]]:
        """Return the voices' scores of lists, at the length that the student serves with.

        Args:
            lists: of a query and its texts, which may be none.
            each: told how many more texts are done.

        """
        student = self.recipe.student
        self.student.eval()
        result: list[dict[Voice, list[float]]] = []
        with torch.no_grad(), self._precision(), self.student.remembering():
            for part in _together(lists):
                asked = [
                    Asked(q, tuple(texts), student.max_tokens, student.max_query_tokens) for q, texts in part if texts
                ]
                scores = iter(self.student(asked, [], min(8, self.recipe.training.microbatch))[0] if asked else ())
                for _, texts in part:
                    own = {voice: values.float().tolist() for voice, values in next(scores).items()} if texts else {}
                    result.append(own or {voice: [] for voice in student.voices})
                if each is not None:
                    each(sum(len(texts) for _, texts in part))
        return result

    # --- keeping ------------------------------------------------------------------------------------------------

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the student's weights, on the processor."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.student.state_dict().items()}

    def blended(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights moved back towards the start, as the recipe says; what is not the start's own stays."""
        part = self.recipe.training.blend
        return {
            name: tensor
            if part == 1 or not tensor.is_floating_point() or not name.startswith("body.") or _is_fresh(name)
            else part * tensor + (1 - part) * self.start[name]
            for name, tensor in weights.items()
        }

    def serving(self) -> _Serving:
        """Return a block in which the student has the weights that would be kept now, blended."""
        return _Serving(self)

    def save(self, path: Path) -> None:
        """Write a checkpoint: all of it or nothing."""
        written(
            path,
            {
                "weights": self.student.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "state": {name: getattr(self.state, name) for name in State.__slots__},
                "recipe": self.recipe.fingerprint(),
                "threads": torch.get_num_threads(),
            },
        )

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ConfigInvalid: it belongs to another recipe.

        """
        kept = torch.load(path, map_location=self.student.device, weights_only=True)
        if kept["recipe"] != self.recipe.fingerprint():
            raise ConfigInvalid(
                f"{path} was made with another recipe; go on with that one, or train into another folder"
            )
        self.student.load_state_dict(kept["weights"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.state = State(**kept["state"])

    def _optimiser(self) -> torch.optim.Optimizer:
        training = self.recipe.training
        head = self.student.head_parameters()
        known = {id(p) for p in head}
        temperature = [self.student.temperature] if isinstance(self.student, JointMaxSim) else []
        known |= {id(p) for p in temperature}
        body = [p for p in self.student.parameters() if p.requires_grad and id(p) not in known]
        fast = training.lr * training.head_lr_times
        groups = [
            {"params": [p for p in body if p.dim() > 1], "lr": training.lr, "weight_decay": training.weight_decay},
            {"params": [p for p in body if p.dim() < 2], "lr": training.lr, "weight_decay": 0.0},
            {"params": head, "lr": fast, "weight_decay": 0.0},
            # A number near 20, not near 0.02.
            {"params": temperature, "lr": training.lr * 200, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]])


def written(path: Path, kept: Mapping[str, Any]) -> None:
    """Save what torch can load again: all of it, on the disk, or nothing."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(dict(kept), file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _together(lists: Sequence[tuple[str, Sequence[str]]]) -> Iterator[list[tuple[str, Sequence[str]]]]:
    """Yield lists in parts of enough texts to be sorted by length among themselves."""
    part: list[tuple[str, Sequence[str]]] = []
    for each in lists:
        part.append(each)
        if sum(len(texts) for _, texts in part) >= _TEXTS_MEASURED_TOGETHER:
            yield part
            part = []
    if part:
        yield part


def _is_fresh(name: str) -> bool:
    return "classifier" in name or "pooler" in name


class _Serving:
    """The blended weights for a while, and then those that learn again."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._learning: dict[str, Tensor] | None = None

    def __enter__(self) -> None:
        if self._loop.recipe.training.blend != 1:
            self._learning = self._loop.weights()
            self._loop.student.load_state_dict(self._loop.blended(self._learning))

    def __exit__(self, *_: object) -> None:
        if self._learning is not None:
            self._loop.student.load_state_dict(self._learning)

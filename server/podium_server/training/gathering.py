"""What a recipe's data comes to: streams to learn from and sets to measure on, none of the one in the other."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from podium_server.errors import ConfigInvalid
from podium_server.training.development import (
    Held,
    Judged,
    Measured,
    distinct,
    drawn,
    judgments,
    of_collection,
    of_lists,
    of_pairs,
)
from podium_server.training.draws import Stream
from podium_server.training.examples import Example, Reading, read
from podium_server.training.negatives import Progress, VectorsOf, cut, default_cache, mine
from podium_server.training.recipe import (
    IN_BATCH,
    LISTS_PER_STEP,
    PAIRS_PER_STEP,
    Data,
    Development,
    Fusing,
    Negatives,
    Recipe,
)
from podium_server.training.recipe_file import found


@dataclass(frozen=True, slots=True)
class Gathered:
    """Data, ready.

    Args:
        streams: of each entry of the recipe, in its order.
        sets: to measure on.
        remarks: what was left out and why, for whoever runs it and for the card.

    """

    streams: tuple[Stream, ...]
    sets: tuple[Measured, ...]
    remarks: tuple[str, ...]


@dataclass(slots=True)
class Gathering:
    """Reads, holds out, mines.

    Args:
        recipe: of it.
        folders: where relative paths are looked for.
        cache: of mined negatives.
        progress: told what is being done.

    """

    recipe: Recipe | Fusing
    folders: tuple[Path, ...]
    cache: Path | None = None
    progress: Progress = lambda what, done, total: None
    _encoders: dict[str, VectorsOf] | None = None

    def gather(self) -> Gathered:
        """Return the streams and the sets.

        Raises:
            ConfigInvalid: a file is missing, or nothing is left of an entry.

        """
        remarks: list[str] = []
        held = Held()
        sets = [self._set(entry, remarks) for entry in self.recipe.development]
        twice = [name for name, count in Counter(each.name for each in sets).items() if count > 1]
        if twice:
            raise ConfigInvalid(f"two [[development]] are called {twice[0]!r}; give each a name of its own")
        for each in sets:
            held.add(each.lists)
        learnt = self.recipe.data if isinstance(self.recipe, Recipe) else ()
        streams = tuple(self._stream(at, entry, held, remarks) for at, entry in enumerate(learnt))
        return Gathered(streams, tuple(sets), tuple(remarks))

    # --- to measure on ------------------------------------------------------------------------------------------

    def _set(self, entry: Development, remarks: list[str]) -> Measured:
        name = entry.name or _name(entry.paths)
        lists = self._judged(entry, name, remarks)
        if not lists:
            raise ConfigInvalid(f"development {name!r} has no list; nothing could be measured on it")
        if not any(gain > 0 for each in lists for gain in each.ideal):
            raise ConfigInvalid(f"development {name!r} has no relevant document in any of its {len(lists)} lists")
        return Measured(name, lists, entry.after, entry.weight)

    def _judged(self, entry: Development, name: str, remarks: list[str]) -> tuple[Judged, ...]:
        seed = self.recipe.training.seed
        if entry.format == "collection":
            folder = self._folder(entry.paths[0])
            return of_collection(folder, entry, seed, self.progress)
        reading = self._read(entry, name, remarks)
        if reading.examples and all(len(example.documents) == 1 for example in reading.examples):
            queries = drawn(distinct(reading.examples), entry, seed)
            mined = mine(
                reading.examples,
                queries,
                entry.negatives,
                self._encoder(entry.negatives),
                cache=self._cache(),
                progress=self.progress,
            )
            # Cut as the mined ones are: a long positive would else be there twice, whole and cut.
            known = [cut(pair, entry.negatives.characters) for pair in reading.examples]
            return of_pairs([pair for pair in mined.examples if pair.others], known, seed)
        qrels = judgments(found(entry.qrels, self.folders)[0]) if entry.qrels else None
        return of_lists(drawn(reading.examples, entry, seed), entry, qrels)

    def _folder(self, path: str) -> Path:
        for folder in self.folders if not Path(path).is_absolute() else (Path("/"),):
            if (folder / path).is_dir():
                return folder / path
        raise ConfigInvalid(f"there is no folder {path!r} in {' nor '.join(map(str, self.folders))}")

    # --- to learn from ------------------------------------------------------------------------------------------

    def _stream(self, at: int, entry: Data, held: Held, remarks: list[str]) -> Stream:
        name = entry.name or _name(entry.paths)
        reading = self._read(entry, name, remarks)
        examples, kept_out = held.without(reading.examples)
        if kept_out:
            remarks.append(
                f"{name}: {kept_out:,} of {len(reading.examples):,} rows left out: a development list asks the same"
            )
        if entry.most:
            examples = _at_most(examples, entry.most, f"{self.recipe.training.seed}/{at}")
        pairs = bool(examples) and all(len(example.documents) == 1 for example in examples)
        default_loss = IN_BATCH if pairs and not self._reads else "kl"
        usual = PAIRS_PER_STEP if IN_BATCH in (entry.losses or {default_loss: 1.0}) else LISTS_PER_STEP
        queries = usual if entry.queries is None else entry.queries
        entry = entry.model_copy(update={"name": name, "loss": entry.loss or default_loss, "queries": queries})
        if IN_BATCH in entry.losses and entry.target is not None:
            raise ConfigInvalid(
                f"data {name!r}: target is what a list's scores should be like, and the loss {IN_BATCH!r} knows right "
                "and wrong alone; name another loss (kl), or leave target out"
            )
        if pairs:
            entry, examples = self._with_negatives(entry, name, examples, reading, remarks)
        elif examples and IN_BATCH in entry.losses:
            raise ConfigInvalid(f"data {name!r}: loss {IN_BATCH!r} is for pairs; these are lists")
        elif examples and entry.negatives is not None:
            raise ConfigInvalid(f"data {name!r}: negatives are of pairs; these are lists")
        else:
            examples = [example for example in examples if _teaches(example)]
            if len(examples) + kept_out < len(reading.examples) and not entry.most:
                alike = len(reading.examples) - kept_out - len(examples)
                remarks.append(f"{name}: {alike:,} lists left out: their documents are alike")
        if not examples:
            raise ConfigInvalid(f"data {name!r} has nothing to learn from: {_why(reading)}")
        stream = Stream(entry, examples, f"{self.recipe.training.seed}/{at}")
        if IN_BATCH not in entry.losses and not stream.teaches:
            # A student that learnt from it would be taught that all documents are alike.
            raise ConfigInvalid(
                f"data {name!r}: its target is the same for every document of a list; name in target what its rows "
                "have (rank, human, label, score), or target.teacher"
            )
        return stream

    def _with_negatives(
        self, entry: Data, name: str, pairs: list[Example], reading: Reading, remarks: list[str]
    ) -> tuple[Data, list[Example]]:
        few = Negatives(documents=4, random=1) if self._reads else Negatives()
        negatives = entry.negatives or few
        mined = mine(
            reading.examples, pairs, negatives, self._encoder(negatives), cache=self._cache(), progress=self.progress
        )
        of_list = IN_BATCH not in entry.losses and not negatives.random
        examples = [pair for pair in mined.examples if pair.others] if of_list else mined.examples
        if mined.suspected:
            remarks.append(f"{name}: {mined.suspected:,} neighbours left out as positives that nobody marked")
        if mined.without:
            remarks.append(f"{name}: {mined.without:,} of {len(pairs):,} pairs have no mined negative")
        return entry.model_copy(update={"negatives": negatives}), examples

    @property
    def _reads(self) -> bool:
        """Whether the student reads query and passage together."""
        return isinstance(self.recipe, Recipe) and self.recipe.student.kind == "cross-encoder"

    # --- both ---------------------------------------------------------------------------------------------------

    def _read(self, entry: Data | Development, name: str, remarks: list[str]) -> Reading:
        paths = [path for pattern in entry.paths for path in found(pattern, self.folders)]
        reading = read(paths, entry.format, sources=entry.sources, min_agreement=entry.min_agreement)
        for reason, count in reading.left_out.items():
            remarks.append(f"{name}: {count:,} rows left out: {reason} (the first: {reading.first_bad})")
        if not reading.examples:
            raise ConfigInvalid(f"{name!r} has no usable row: {_why(reading)}")
        return reading

    def _cache(self) -> Path:
        return self.cache or default_cache()

    def _encoder(self, negatives: Negatives) -> VectorsOf | None:
        if negatives.by == "bm25":
            return None
        if self._encoders is None:
            self._encoders = {}
        if negatives.encoder not in self._encoders:
            self._encoders[negatives.encoder] = open_encoder(negatives.encoder)
        return self._encoders[negatives.encoder]


def open_encoder(model: str) -> VectorsOf:
    """Return an encoder of this process."""
    from podium_server.backends.encoders.openvino import OpenVinoEncoder

    return OpenVinoEncoder(model)


def _name(paths: Sequence[str]) -> str:
    first = Path(paths[0]).name
    for suffix in (".gz", ".jsonl", ".json"):
        first = first.removesuffix(suffix)
    return first


def _why(reading: Reading) -> str:
    if reading.left_out:
        return "; ".join(f"{count:,} × {reason}" for reason, count in reading.left_out.most_common(3))
    return "no row is of the sources named" if not reading.examples else "all were held out or alike"


def _teaches(example: Example) -> bool:
    """Return whether a list tells one of its documents from another."""
    documents = example.documents
    known = {(document.rank, document.human, document.label, document.score) for document in documents}
    return len(known) > 1 or bool(example.others) or known == {(None, None, None, None)}


def _at_most(examples: Sequence[Example], most: dict[str, int], seed: str) -> list[Example]:
    """Return so many queries of each source, drawn by the seed, one row each."""
    shuffled = random.Random(f"{seed}/most").sample(list(examples), len(examples))
    counts: Counter[str] = Counter()
    seen: dict[str, set[str]] = defaultdict(set)
    result = []
    for example in shuffled:
        limit = next((n for name, n in most.items() if name != "*" and example.source.startswith(name)), most.get("*"))
        if example.query in seen[example.source] or (limit is not None and counts[example.source] >= limit):
            continue
        seen[example.source].add(example.query)
        counts[example.source] += 1
        result.append(example)
    return result

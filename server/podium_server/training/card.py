"""The model card: what a student is, what it learnt from, how good it is, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podium_server.training.draws import Stream
from podium_server.training.measures import Comparison
from podium_server.training.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Made:
    """What is known when a student is ready.

    Args:
        name: of it.
        command: that makes it.
        recipe_text: the file, as it is.
        streams: what it learnt from.
        results: set → (as given, voice → before and after); the first voice is the one that decides.
        after_only: names of sets that decided nothing.
        versions: of the libraries.
        facts: steps, the kept one, time, speed, threads, as (name, value) for the table.
        remarks: what was left out.

    """

    name: str
    command: str
    recipe_text: str
    streams: Sequence[Stream]
    results: Mapping[str, tuple[float, Mapping[str, Comparison]]]
    after_only: frozenset[str]
    versions: Mapping[str, str]
    facts: Sequence[tuple[str, str]]
    remarks: Sequence[str]
    baseline: str


def written(made: Made, recipe: Recipe) -> str:
    """Return the card as Markdown, with the header that hubs read."""
    student = recipe.student
    tags = f"tags: [podium, reranker, {student.kind}]"
    parts = [
        f"---\nlibrary_name: sentence-transformers\nbase_model: {student.start}\n{tags}\n---\n",
        f"# {made.name}\n",
        f"{_KINDS[student.kind]} trained by `podium distil` from {student.start}. Podium serves this folder by its "
        "path; sentence-transformers reads it, too"
        + (".\n" if student.head == "cls" else ", but not the head in head.safetensors.\n"),
        "## Quality\n",
        f"nDCG@10. *before* is {made.baseline}. p is of a paired randomisation test, two-sided. "
        + _decided(made, recipe)
        + "\n",
        _results(made),
        "\n![learning curve](training/curve.svg)\n",
        "## Data\n",
        _data(made.streams),
        *([_remarks(made.remarks)] if made.remarks else []),
        "\n## Training\n",
        "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in made.facts)]),
        "\n## Again\n",
        f"```\n{made.command}\n```\n",
        f"with {_versions(made)} and this recipe (`{recipe.fingerprint()}`):\n",
        f"```toml\n{made.recipe_text.strip()}\n```\n",
    ]
    return "\n".join(parts)


_KINDS = {
    "late-interaction": "A late-interaction reranker (token vectors and MaxSim; its pooled vector is a bi-encoder's)",
    "bi-encoder": "A bi-encoder",
    "cross-encoder": "A cross-encoder",
}


def _versions(made: Made) -> str:
    return ", ".join(f"{name} {version}" for name, version in made.versions.items())


def _decided(made: Made, recipe: Recipe) -> str:
    deciding = ", ".join(name for name in made.results if name not in made.after_only)
    if recipe.training.keep == "best":
        return f"Which checkpoint was kept was decided by {deciding}; the other sets decided nothing."
    if recipe.training.patience is not None:
        return f"The last step was kept, and when to stop was decided by {deciding}; the other sets decided nothing."
    return "The last step was kept: no set decided anything."


def _results(made: Made) -> str:
    lines = ["| set | queries | as given | score | before | after | gain | better / worse | p |", "| --- " * 9 + "|"]
    for name, (given, voices) in made.results.items():
        for place, (voice, each) in enumerate(voices.items()):
            head = f"| {name} | {each.queries} | {given:.4f} " if place == 0 else "| | | "
            gain = each.after - each.before
            lines.append(
                f"{head}| {voice} | {each.before:.4f} | {each.after:.4f} | {gain:+.4f} "
                f"| {each.better} / {each.worse} | {each.p:.4f} |"
            )
    return "\n".join(lines)


def _data(streams: Sequence[Stream]) -> str:
    lines = ["| data | files | sources | queries | a step | documents | loss | weight | licence |", "| --- " * 9 + "|"]
    for stream in streams:
        data = stream.data
        sources: dict[str, int] = {}
        for example in stream.examples:
            sources[example.source] = sources.get(example.source, 0) + 1
        named = ", ".join(f"{name} {count:,}" for name, count in sorted(sources.items(), key=lambda x: -x[1]) if name)
        loss = " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in data.losses.items())
        lines.append(
            f"| {data.name} | {', '.join(data.paths)} | {named or '–'} | {len(stream.examples):,} | {data.queries:g} "
            f"| {data.documents} | {loss} | {data.weight:g} | {data.licence or 'not said'} |"
        )
    return "\n".join(lines)


def _remarks(remarks: Sequence[str]) -> str:
    return "\n" + "\n".join(f"- {remark}" for remark in remarks)


def facts_of(recipe: Recipe, more: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table of how it was made."""
    student, training = recipe.student, recipe.training
    rows = {
        "start": student.start,
        "kind": student.kind if student.head == "cls" else f"{student.kind}, {student.head}",
        "seed": str(training.seed),
        "learning rate": f"{training.lr:g}, warm-up {training.warmup_steps} steps, then linearly to 0",
        "precision": training.precision,
        "scores that learn": ", ".join(f"{voice} × {weight:g}" for voice, weight in recipe.learning_voices.items()),
    }
    if recipe.teacher is not None:
        rows["teacher"] = recipe.teacher.model
    if training.anchor:
        rows["anchor"] = f"{training.anchor:g} × divergence from the teacher's scores"
    if training.blend != 1:
        rows["blend"] = f"{training.blend:g} of the way from the start"
    return [*rows.items(), *((name, str(value)) for name, value in more.items())]

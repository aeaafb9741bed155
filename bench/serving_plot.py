"""Draws what bench/serving.py measured: goodput and latency against what is offered, and the mix.

    python bench/serving_plot.py RESULTS.json OUT.png

Runs in an environment of its own, which has matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"20": "#1f6fb4", "100": "#d2691e"}
SMALL, MIXED, AIM = "#1f6fb4", "#d2691e", "#888888"
STYLE: dict[str, Any] = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "font.size": 11,
    "axes.titlesize": 12.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


def main() -> None:
    results = json.loads(Path(sys.argv[1]).read_text())
    with plt.rc_context(STYLE):
        figure, (left, middle, right) = plt.subplots(1, 3, figsize=(17, 5.4), layout="constrained")
        goodput(left, results)
        latency(middle, results)
        mix(right, results["mix"])
        figure.savefig(sys.argv[2], dpi=120)


def quantile(values: list[float], part: float) -> float:
    """As in bench/serving_report.py."""
    return sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]


def steps_of(results: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [step for step in results["steps"] if step["kind"] == kind]


def goodput(axes: Any, results: dict[str, Any]) -> None:
    most = 0.0
    for kind, can in results["capacity"].items():
        mine = steps_of(results, kind)
        offered = [step["factor"] for step in mine]
        kept = [step["goodput"] / can for step in mine]
        most = max(most, *kept)
        axes.plot(offered, kept, "o-", color=COLOURS[kind], label=f"{kind} documents ({can:.0f} documents/s = 1)")
    top = max(step["factor"] for step in results["steps"])
    axes.plot([0, 1, top], [0, 1, 1], "--", color=AIM, linewidth=1.2, label="ideal")
    axes.set(xlim=(0, 1.03 * top), ylim=(0, 1.25 * max(1.0, most)))
    axes.set_title("Goodput")
    axes.set_xlabel("offered ÷ capacity")
    axes.set_ylabel("complete answers in time ÷ capacity")
    axes.legend(loc="upper left")


def latency(axes: Any, results: dict[str, Any]) -> None:
    for kind, can in results["capacity"].items():
        mine = [step for step in steps_of(results, kind) if step["p99_ms"] == step["p99_ms"]]
        offered = [step["factor"] for step in mine]
        for part, line, mark in (("p99_ms", "-", "o"), ("p50_ms", ":", "s")):
            took = [step[part] / 1e3 for step in mine]
            name = f"{kind} documents, {part.removesuffix('_ms')}"
            axes.plot(offered, took, line, marker=mark, markersize=5, color=COLOURS[kind], label=name)
        bound = results["wait_s_max"] + int(kind) / can
        axes.axhline(bound, color=COLOURS[kind], linewidth=1, alpha=0.45, dashes=(6, 4))
        axes.annotate(
            f"{results['wait_s_max']:g} s of waiting + the work of {kind} documents",
            (0.02, bound), xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points",
            color=COLOURS[kind], fontsize=9,
        )  # fmt: skip
    axes.set_title("Latency of admitted requests")
    axes.set_xlabel("offered ÷ capacity")
    axes.set_ylabel("seconds, from the intended arrival")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.45 * axes.get_ylim()[1])
    axes.legend(loc="upper left", ncols=2, fontsize=9.5)


def mix(axes: Any, found: dict[str, Any]) -> None:
    for name, took, colour in (("alone", found["alone_ms"], SMALL), ("with 1 % huge", found["mixed_ms"], MIXED)):
        if not took:
            continue
        ordered = sorted(took)
        share = [(i + 1) / len(ordered) for i in range(len(ordered))]
        p99 = quantile(took, 0.99)
        label = f"small, {name}: p99 {p99:.0f} ms ({len(ordered)} requests)"
        axes.step(ordered, share, where="post", color=colour, linewidth=2, label=label)
        axes.plot([p99, p99], [0, 0.99], ":", color=colour, linewidth=1.3)
    if found["alone_ms"]:
        most = 3 * quantile(found["alone_ms"], 0.99)
        axes.plot([most, most], [0, 0.99], "--", color=AIM, linewidth=1.3, label=f"aim: 3 × alone's p99, {most:.0f} ms")
    axes.set_xscale("log")
    axes.set_ylim(0, 1.3)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    ticks = [10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000]
    low, high = axes.get_xlim()
    axes.set_xticks([tick for tick in ticks if low <= tick <= high], minor=False)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_title(f"Small requests beside huge ones ({found['huge_work']:.0%} of the work)")
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("share of requests")
    axes.legend(loc="upper left", fontsize=9.5)


if __name__ == "__main__":
    main()

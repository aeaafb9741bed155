"""Pictures of a report, for the README: `python -m podium_evals.report.shots report.html docs/images`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from podium_evals.report.browser import browse, find


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture: its file's name, the window in CSS pixels, how the reader likes the page, and what stands on top."""

    name: str
    width: int
    height: int
    dark: bool
    scale: float
    top: str = ""


SHOTS = (
    Shot("eval-report-light.png", 1200, 1440, dark=False, scale=1),
    Shot("eval-report-phone-dark.png", 390, 800, dark=True, scale=1.5, top=".part h2"),
)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--suite", default="dl19", help="that is shown on the desk")
    parser.add_argument("--query", help="that is shown on the phone, by its id; unset, the suite")
    arguments = parser.parse_args()
    path = find()
    if path is None:
        raise SystemExit("there is no Chromium on this machine: apt-get install chromium")
    with browse(path) as page:
        for shot in SHOTS:
            query = f"/q/{arguments.query}" if arguments.query and shot.width < 600 else ""
            page.open(
                f"{arguments.report.resolve().as_uri()}#/{arguments.suite}{query}",
                width=shot.width,
                height=shot.height,
                dark=shot.dark,
                scale=shot.scale,
            )
            if query:
                above = "scrollIntoView({behavior: 'instant'})"
                page.evaluate(f"document.querySelector({shot.top!r}).{above}; new Promise(d => setTimeout(d, 50))")
            page.picture(arguments.folder / shot.name)
            print(arguments.folder / shot.name)


if __name__ == "__main__":
    main()

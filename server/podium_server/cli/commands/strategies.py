"""`podium strategies`: what is installed, and with which options."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import click

from podium_server.cli import options
from podium_server.cli.app import Command

if TYPE_CHECKING:
    from rich.console import Console

    from podium_strategies.registry import Option


@click.command(
    "strategies",
    cls=Command,
    epilog=options.example("podium strategies\npodium strategies sliding-window\npodium strategies --table"),
)
@click.argument("name", required=False)
@click.option("--table", "as_table", is_flag=True, help="Print the calls and the depth of each over 100 candidates.")
def command(name: str | None, as_table: bool) -> None:
    """List the ranking strategies that are installed, or tell all about one.

    A strategy of your own appears here as soon as its package is installed: see CONTRIBUTING.md.
    """
    from podium_server.cli.display import console as look

    paper = look.stdout()
    if as_table:
        _print_table(paper)
    elif name is None:
        _print_all(paper)
    else:
        _print_one(paper, name)


def _print_all(paper: Console) -> None:
    from rich import box
    from rich.table import Table

    from podium_strategies import registry

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("strategy", style="bold", no_wrap=True)
    table.add_column("what it does")
    table.add_column("options", style="dim")
    for name in registry.names():
        strategy = registry.load(name)
        table.add_row(name, _summary(strategy), ", ".join(_written(o) for o in registry.options(strategy)) or "–")
    paper.print(table)


def _print_one(paper: Console, name: str) -> None:
    from rich.markup import escape

    from podium_server.errors import NotFound
    from podium_strategies import registry

    try:
        strategy = registry.load(name)
    except registry.UnknownStrategy as error:
        raise NotFound("strategy", error.name, error.known) from error
    asks = sorted(kind.__name__.lower() for kind in getattr(strategy, "kinds", ()))
    options_of = registry.options(strategy)
    paper.print(f"[bold]{name}[/]\n")
    # Paragraphs are wrapped for the paper at hand, lists stay as they are.
    for paragraph in (inspect.getdoc(strategy) or "").split("\n\n"):
        listed = "\n " in paragraph
        paper.print(escape(paragraph if listed else " ".join(paragraph.split())) + "\n")
    if asks:
        paper.print(f"Asks: {', '.join(asks)}.")
    if options_of:
        paper.print("Options: " + escape(", ".join(f"{_written(o)} ({o.type})" for o in options_of)))
    written = "".join(f", {o.name} = {_toml(o.default)}" for o in options_of if _plain(o.default))
    model = ', model = "…"' if asks else ""
    paper.print(escape(f'\nIn a pipeline:\n  stages = [{{ strategy = "{name}"{model}{written} }}]'), soft_wrap=True)


def _print_table(paper: Console) -> None:
    from rich import box
    from rich.table import Table

    from podium_server.cli.display import console as look
    from podium_strategies.table import calls_and_depth

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("strategy", no_wrap=True)
    table.add_column("options")
    for title in ("questions", "at most", "rounds"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("calls, published", "depth, published"):
        table.add_column(title, justify="right")
    table.add_column("source", style="dim", max_width=18)
    for row in calls_and_depth():
        numbers = (row.questions, row.questions_max, row.rounds)
        shown = ("refused" if number is None else look.count(round(number, 1)) for number in numbers)
        table.add_row(row.name, row.options, *shown, row.published_calls, row.published_depth, row.source)
    paper.print("100 candidates, the best 10; questions and rounds as the plans ask them of truthful judges\n")
    paper.print(table)


def _summary(strategy: type) -> str:
    """Return the first sentence of a strategy's documentation, as plain text."""
    return " ".join((inspect.getdoc(strategy) or "").split("\n\n")[0].split())


def _written(option: Option) -> str:
    name, default, required = option.name, option.default, option.required
    return f"{name} (needed)" if required else f"{name} = {_toml(default)}" if _plain(default) else name


def _plain(value: object) -> bool:
    return isinstance(value, bool | int | float | str)


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else str(value)

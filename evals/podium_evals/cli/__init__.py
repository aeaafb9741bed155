"""`podium eval`: the group, and which module has which command. A module is imported when its command is called.

`podium` finds the group by its entry point (`podium.commands`), so that nothing in the server knows of it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from podium_server.cli.app import SETTINGS, as_written

# name → module, and one line. The module has the command as `command`.
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("podium_evals.cli.run", "Run pipelines over suites: run files, a table, results.json and a report."),
    "score": ("podium_evals.cli.score", "Measure TREC run files: the same table."),
    "compare": ("podium_evals.cli.compare", "Compare two systems query by query."),
    "all": ("podium_evals.cli.all", "Everything on the data set folder: what `make evals` runs."),
    "report": ("podium_evals.report.command", "Draw results.json as one HTML file."),
    "simulate": ("podium_evals.simulate.command", "Serve a judge that behaves like a language model."),
    "simulate-table": ("podium_evals.simulate.table_command", "Every strategy with the simulated judge."),
    "simulate-fit": ("podium_evals.simulate.fit_command", "Fit the simulated judge's faults to recorded rankers."),
    "ab": ("podium_evals.online.ab_command", "Read a log of assignments: which pipeline won."),
    "drift": ("podium_evals.online.drift_command", "Compare live traffic with a reference."),
}


class _LazyGroup(click.Group):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = as_written(self.help)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name][0]).command
        command.help = as_written(command.help)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # As click's own, from the table instead of from the commands, which would have to be imported.
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


@click.group(
    "eval", cls=_LazyGroup, context_settings=SETTINGS, short_help="What each pipeline buys, and at what price."
)
def command() -> None:
    r"""What does each pipeline buy on your queries, and what does it cost?

    \b
    Example:
      podium eval run my-suite/ --pipeline recall --pipeline fast --out evaluation/
    """

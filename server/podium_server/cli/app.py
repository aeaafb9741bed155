"""`podium`: finds the command, runs it, and says in one sentence what went wrong."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import click

DONE, FAILED, MISUSED, BUDGET_SPENT, INTERRUPTED = 0, 1, 2, 3, 130

COMMANDS = {
    "serve": "Serve over gRPC.",
    "health": "Ask a server whether it serves, by the exit code.",
    "keys": "Make, list and revoke API keys.",
    "demo": "Index this machine's Python library, ask it questions, show rankings and what they cost.",
    "index": "Put documents into a collection.",
    "search": "Ask a collection: recall, then a pipeline.",
    "rerank": "Put many lists of candidates in order.",
    "label": "Have a pipeline, the teacher, label many lists.",
    "export-labels": "Turn labels into what trainers read.",
    "mine": "Find hard negatives for queries with positives, and drop the false ones.",
    "synthesize": "Have a model write queries for a corpus that has none.",
    "distil": "Train a small ranking model from labels, judgments and teachers.",
    "optimize": "Make a model's numbers int8, and say what it loses and gains.",
    "estimate": "Quote questions, calls, tokens and money. Calls no model.",
    "calibrate": "Set the thresholds of early-exit and selective from labelled lists.",
    "strategies": "List the ranking strategies that are installed, with their options.",
    "doctor": "Look for what would keep Podium from running well here.",
}

# Other distributions add commands by entry points of this group; each names a click command. Those that we know of are
# listed without them, too, with what brings them.
ELSEWHERE = "podium.commands"
BROUGHT_BY = {"eval": ("podium-evals", "What each pipeline buys on your queries, and at what price.")}

# The errors of which the cure is another command line or another file, by name: their classes are not imported here.
_MISUSES = frozenset({"ConfigInvalid", "InvalidRequest", "NotFound", "FailedPrecondition", "AlreadyExists"})

SETTINGS = {"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 100}


class Command(click.Command):
    """A command that takes `--verbose` wherever it stands."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["context_settings"] = SETTINGS | kwargs.get("context_settings", {})
        super().__init__(*args, **kwargs)
        self.help = as_written(self.help)
        self.params.append(
            click.Option(["--verbose", "-v"], is_flag=True, expose_value=False, help=_VERBOSE, callback=_be_verbose)
        )


def as_written(text: str | None) -> str | None:
    r"""Return a help text whose `\b` is the character that tells click to leave a paragraph as it is.

    Docstrings with a backslash are raw strings here (ruff's D301), in which it is two characters.
    """
    return text and text.replace("\\b\n", "\b\n")


class _LazyGroup(click.Group):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.help = as_written(self.help)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(set(_elsewhere()) | set(BROUGHT_BY))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            module = import_module(f"podium_server.cli.commands.{cmd_name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        entry = _elsewhere().get(cmd_name)
        if entry is not None:
            return _loaded(entry)
        if cmd_name in BROUGHT_BY:
            distribution, _ = BROUGHT_BY[cmd_name]
            raise click.UsageError(f"podium {cmd_name} is not installed: pip install {distribution}")
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # As click's own, from the table instead of from the commands, which would have to be imported.
        rows = list(COMMANDS.items())
        installed = _elsewhere()
        for name in self.list_commands(ctx)[len(rows) :]:
            if name in BROUGHT_BY:
                distribution, line = BROUGHT_BY[name]
                rows.append((name, line if name in installed else f"{line} (pip install {distribution})"))
            else:
                rows.append((name, _line_of(installed[name])))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


def _elsewhere() -> dict[str, EntryPoint]:
    """Return the commands of other distributions; one that is called like one of ours is not reached."""
    return {entry.name: entry for entry in entry_points(group=ELSEWHERE) if entry.name not in COMMANDS}


def _loaded(entry: EntryPoint) -> click.Command:
    """Import a command of another distribution.

    Raises:
        click.ClickException: it cannot be imported, or is no command.

    """
    whose = f" of {entry.dist.name}" if entry.dist else ""
    try:
        command = entry.load()
    except Exception as error:  # whatever a stranger's module raises, it must be said whose it is
        raise click.ClickException(f"podium {entry.name}{whose} cannot be loaded: {error}") from error
    if not isinstance(command, click.Command):
        raise click.ClickException(f"podium {entry.name}{whose} is {command!r}, and no click command")
    return command


def _line_of(entry: EntryPoint) -> str:
    """Return what a command says of itself; of one that cannot be loaded, that: it must not take `--help` with it."""
    try:
        return _loaded(entry).get_short_help_str(100)
    except click.ClickException as error:
        return error.message


_VERBOSE = "Show the traceback of an error."


def _be_verbose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.find_root().meta["verbose"] = True


@click.group(cls=_LazyGroup, context_settings=SETTINGS)
@click.option("--verbose", "-v", is_flag=True, expose_value=False, help=_VERBOSE, callback=_be_verbose)
@click.version_option(version("podium"), prog_name="podium")
def cli() -> None:
    r"""Put candidates in order, with any strategy, and say what the order cost.

    \b
    Examples:
      podium demo
      podium serve --port 50051 --data-dir ./data
      podium rerank --pipeline fast lists.jsonl.gz --out ranked.jsonl
    """


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0 done, 1 failed, 2 misused or misconfigured, 3 a job's budget is spent, 130 interrupted.
    """
    context: click.Context | None = None
    try:
        with cli.make_context("podium", list(sys.argv[1:] if arguments is None else arguments)) as context:
            result = cli.invoke(context)
            return result if isinstance(result, int) else DONE
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough. Python would complain once more when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:  # noqa: BLE001  # the last one who can say anything; a traceback is shown below
        return _explain(error, verbose=context is not None and bool(context.meta.get("verbose")))


def _explain(error: Exception, *, verbose: bool) -> int:
    """Say what went wrong; a defect of ours, and whatever `--verbose` asks for, with its traceback."""
    known = any(kind.__name__ == "PodiumError" for kind in type(error).__mro__)
    if verbose or not (known or isinstance(error, OSError)):
        traceback.print_exception(error)
    if known:
        say(str(getattr(error, "message", error)))
        return MISUSED if type(error).__name__ in _MISUSES else FAILED
    if isinstance(error, OSError) and error.strerror:
        say(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
        return FAILED
    say(f"a defect of Podium's own: {type(error).__name__}: {error}")
    return FAILED


def say(sentence: str) -> None:
    """Print a sentence where errors go."""
    click.echo(f"podium: {sentence}", err=True)

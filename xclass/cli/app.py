"""The Typer application: every command under its name, from one literal table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Annotated, Any

import typer

from xclass import __version__
from xclass.cli.commands.compare import compare
from xclass.cli.commands.demo import demo
from xclass.cli.commands.doctor import doctor
from xclass.cli.commands.estimate import estimate
from xclass.cli.commands.evaluate import evaluate
from xclass.cli.commands.export import export
from xclass.cli.commands.index import index
from xclass.cli.commands.ingest import ingest
from xclass.cli.commands.inspect import inspect
from xclass.cli.commands.retrieve import retrieve
from xclass.cli.commands.train import train
from xclass.cli.failures import Failed
from xclass.cli.output import print_line
from xclass.errors import Interrupted

# In the order of a person's work; `xclass --help` lists them so.
COMMANDS: dict[str, Callable[..., Any]] = {
    "demo": demo,
    "ingest": ingest,
    "estimate": estimate,
    "train": train,
    "index": index,
    "retrieve": retrieve,
    "export": export,
    "evaluate": evaluate,
    "compare": compare,
    "inspect": inspect,
    "doctor": doctor,
}


def _print_version(wanted: bool) -> None:
    if wanted:
        print_line(f"xclass {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train two-tower models with sampled losses, index the items, retrieve the best few for every query."""


def _with_own_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Keep Typer from making exit codes of a Ctrl-C, of an end of file ("Aborted!") and of a broken pipe."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> Any:
        try:
            return command(*args, **options)
        except KeyboardInterrupt:
            raise Interrupted("interrupted; nothing half-written is left behind") from None
        except (EOFError, OSError) as error:
            raise Failed from error

    return run


def build_app() -> typer.Typer:
    """The application with every command of :data:`COMMANDS`."""
    application = typer.Typer(
        no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
    )
    application.callback()(root)
    for name, command in COMMANDS.items():
        application.command(name)(_with_own_errors(command))
    return application


app = build_app()

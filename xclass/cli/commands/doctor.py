"""``xclass doctor``."""

from __future__ import annotations

import typer

from xclass.cli.failures import WRONG_INPUT
from xclass.cli.options import AsJson
from xclass.cli.output import print_json, print_line, print_table


def doctor(as_json: AsJson = False) -> None:
    """Check this machine: versions, threads, accelerator, memory, disk; whether torch and Faiss work together.

    The exit code is 1 when something that xclass needs is broken.
    """
    from xclass.cli.commands.doctor_checks import OK, diagnose, healthy

    checks = diagnose()
    well = healthy(checks)
    if as_json:
        fields = [{"name": c.name, "status": c.status, "found": c.found, "do": c.do} for c in checks]
        print_json({"ok": well, "checks": fields})
    else:
        print_table(["check", "status", "found"], [[c.name, c.status, c.found] for c in checks])
        print_line()
        for check in checks:
            if check.status != OK and check.do is not None:
                print_line(f"{check.name}: {check.do}")
        print_line("all that xclass needs is here" if well else "something that xclass needs is broken")
    if not well:
        raise typer.Exit(WRONG_INPUT)

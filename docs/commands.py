"""Writes all commands with their help: ``python -m docs.commands`` writes ``docs/commands.md``."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import textwrap
from pathlib import Path
from unittest import mock

from unet_core.__main__ import COMMANDS

OUTPUT = Path(__file__).with_suffix(".md")
INTRODUCTION = """\
# Commands

`python -m docs.commands` writes this page from the help of each command.

All commands run in the folder of the project, as `.venv/bin/python -m unet_core COMMAND`.
The work itself is done by `.venv/bin/snakemake`; `make help` lists shorter ways to common calls.
"""


def page() -> str:
    """The page, with a section for each command."""
    return "\n".join([INTRODUCTION, *(section(name) for name in COMMANDS)])


def section(name: str) -> str:
    """What a command is for, and its help."""
    module, summary = COMMANDS[name]
    return f"## {name}\n\n`{name} {summary.partition(': ')[0]}`: {summary.partition(': ')[2]}.\n\n{help_of(module)}"


def help_of(module: str) -> str:
    """The help that a command prints, as code."""
    printed = io.StringIO()
    # argparse wraps lines at the width of the terminal.
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "100", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        importlib.import_module(module).main(["--help"])
    return textwrap.indent(printed.getvalue(), "    ")


if __name__ == "__main__":
    OUTPUT.write_text(page(), encoding="utf-8")

"""The command line in this process: starting another one costs seconds, most of them imports."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path
from typing import NamedTuple
from unittest import mock


class Done(NamedTuple):
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


def fedvpa(*arguments: object, cwd: Path | None = None) -> Done:
    """Run one command.

    Args:
        arguments: What stands behind ``fedvpa``.
        cwd: The folder that it runs in.
    """
    from fedvpa.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as inside:
        inside.enter_context(mock.patch.object(sys, "argv", ["fedvpa", *map(str, arguments)]))
        inside.enter_context(contextlib.redirect_stdout(out))
        inside.enter_context(contextlib.redirect_stderr(err))
        if cwd is not None:
            inside.enter_context(contextlib.chdir(cwd))
        try:
            main()
            code = 0
        except SystemExit as end:
            code = _code(end.code)
    return Done(code, out.getvalue(), err.getvalue())


def _code(given: str | int | None) -> int:
    return given if isinstance(given, int) else int(given is not None)

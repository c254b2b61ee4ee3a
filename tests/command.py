"""The `ceus` command in the process of a test, which has paid its imports."""

import contextlib
import io
import subprocess
from pathlib import Path

import pytest

from experiments.cli import main


def ceus(*arguments: str | Path, packages: Path | None = None) -> subprocess.CompletedProcess[str]:
    """What the command gave, 80 columns wide; the runs it starts are processes all the same.

    Args:
        arguments: Of the command line.
        packages: Folder of a user's own packages.
    """
    out, err = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        patch.setenv("COLUMNS", "80")
        if packages:
            patch.syspath_prepend(packages)
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
    code = int(str(ended.value.code))
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

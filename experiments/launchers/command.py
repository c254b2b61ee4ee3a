"""`launcher.kind: command`: runs started by a command of the user's, wherever that puts them."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import NoReturn

from experiments.errors import ConfigError
from experiments.processes import die_with_parent
from experiments.sweeps.file import LauncherSettings

LOG = "command.txt"
"""What the command itself prints; the run's own output is in its `log.txt`."""


def check_command(settings: LauncherSettings, sweep: Path) -> None:
    """Refuse a program that is not there, and a path that a shell would not take for one word.

    Args:
        settings: With the template.
        sweep: Folder of the sweep; the command may hand its path to a shell.

    Raises:
        ConfigError: With the program or the path.
    """
    program = words_of(settings, sweep / "run")[0]
    if shutil.which(program) is None:
        raise ConfigError(
            f"launcher.command must start a program of this machine, got {program!r}, which is "
            "none on its PATH. Install it, or give its path."
        )
    where = str(sweep.absolute())
    if shlex.quote(where) != where:
        raise ConfigError(
            "folder of a sweep must have a path of letters, digits and @%+=:,./-_ for "
            f"launcher.kind=command, got {where!r}. Set another runs=."
        )


def words_of(settings: LauncherSettings, run: Path) -> list[str]:
    """The command that starts a run, in words; no shell reads it here.

    Args:
        settings: With the template.
        run: The run's folder.
    """
    run = run.absolute()
    values = {"run": run, "devices": settings.devices_per_run, "log": run / LOG}
    words = shlex.split(settings.command or "")
    for name, value in values.items():
        words = [word.replace(f"{{{name}}}", str(value)) for word in words]
    return words


def become(words: list[str], folder: Path, root: str) -> NoReturn:
    """Become the command, or end with exit code 127.

    Args:
        words: The command.
        folder: The run's, for what it prints.
        root: For its temporary files: this process's own folder may go before the command ends.
    """
    die_with_parent()  # which holds over the exec
    os.environ["TMPDIR"] = root
    log = os.open(folder / LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        os.execvp(words[0], words)
    except OSError as error:
        print(f"{words[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)

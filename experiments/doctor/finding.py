"""What a check found, and checks in processes of their own: one that hangs or dies ends alone."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from typing import Any, Literal

from experiments.errors import ConfigError
from experiments.processes import start, warm_server

State = Literal["pass", "warn", "fail"]
STATES: tuple[State, ...] = ("pass", "warn", "fail")
"""The place of the worst is the exit code."""

DEFECT = "A defect of this check: please report it."


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: Of the check.
        state: `pass`; `warn`, runs go but slower or otherwise than one may think; `fail`, they
            do not.
        found: What is there.
        remedy: What to do; empty where there is nothing to.
    """

    name: str
    state: State
    found: str
    remedy: str = ""


class UnansweredError(Exception):
    """A child gave no answer; the reason is the message."""


class RaisedError(UnansweredError):
    """It raised."""


def in_child(function: str, *arguments: Any, seconds: float) -> Any:
    """What a function gives in a process of its own, which ends with all that it started.

    Args:
        function: `module:function`, imported there, for it may import torch or fail at it; what it
            prints is not shown.
        arguments: Of the function.
        seconds: Most that it may take.

    Raises:
        RaisedError: If it raised.
        UnansweredError: If it died or took longer.
    """
    try:
        context = warm_server()
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_child, args=(theirs, function, arguments))
        start(process)
    except ConfigError as error:
        raise UnansweredError(str(error)) from error
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise UnansweredError(f"no answer in {seconds:.0f} s")
        answer, complaint = ours.recv()
    except EOFError:
        process.join(5)
        raise UnansweredError(f"it ended with exit code {process.exitcode}") from None
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(int(process.pid or 0), signal.SIGKILL)
        process.kill()
        process.join(5)  # one that waits for a dead disk cannot even be killed
    if complaint:
        raise RaisedError(complaint)
    return answer


def ask(
    name: str, check: str, *arguments: Any, seconds: float, remedy: str, state: State = "fail"
) -> list[Finding]:
    """What a check finds in a process of its own.

    Args:
        name: Of the finding where the check gives no answer.
        check: `module:function`; gives findings.
        arguments: Of the check.
        seconds: Most that it may take.
        remedy: Where it hangs or dies.
        state: The same.
    """
    try:
        findings: list[Finding] = in_child(check, *arguments, seconds=seconds)
    except UnansweredError as error:
        advice = DEFECT if isinstance(error, RaisedError) else remedy
        return [Finding(name, state, str(error), advice)]
    return findings


def told(error: BaseException) -> str:
    """An error in a few words."""
    words = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _child(answer: Connection, function: str, arguments: tuple[Any, ...]) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        module, _, name = function.partition(":")
        answer.send((getattr(import_module(module), name)(*arguments), None))
    except Exception as error:  # noqa: BLE001  told on the page
        answer.send((None, told(error)))

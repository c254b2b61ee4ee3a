"""In which order runs start: after what they need, and shared with other processes."""

import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.run_folder.lock import is_locked, run_lock
from experiments.run_folder.needs import leave_waiting, unmet
from experiments.run_folder.status import Status, read_status, write_status

_LOOK_SECONDS = 1.0
_KILLS = 3


def waves(runs: Sequence[Run], needs: Mapping[str, Sequence[str]]) -> list[list[Run]]:
    """Part runs so that each comes in a later wave than those of them that it needs.

    Args:
        runs: In order; a need that is not among them makes nothing wait.
        needs: For a run's id the ids that must be done first.

    Raises:
        ConfigError: If runs wait for each other.
    """
    left, parted = list(runs), list[list[Run]]()
    while left:
        waiting = {run.run_id for run in left}
        wave = [run for run in left if not waiting.intersection(needs.get(run.run_id, ()))]
        if not wave:
            raise ConfigError(
                f"needs of a run must not lead back to it, got {', '.join(sorted(waiting)[:3])} "
                "waiting for each other. Correct what they start from."
            )
        parted.append(wave)
        left = [run for run in left if run not in wave]
    return parted


class Startable(Protocol):
    """What a launcher needs to know of a run."""

    @property
    def run_id(self) -> str:
        """Name of its folder."""

    @property
    def folder(self) -> Path:
        """Where all of it lies."""

    @property
    def architecture(self) -> str:
        """Its name, with the settings of further axes."""


class Queue:
    """Runs that this process has still to start, in order, each after what it needs.

    A run that another process holds, or has done, is left to it.

    Args:
        runs: To be started.
        needs: For a run's id the ids that must be done first.
    """

    def __init__(self, runs: Iterable[Startable], needs: Mapping[str, Sequence[str]]) -> None:
        self.left = list(runs)
        self.is_waiting = False
        """Whether other processes may yet leave something to be started here."""
        self._needs = needs

    def take(self, skip: Callable[[Startable], None]) -> Startable | None:
        """Take out the first that may start; None if there is none now.

        Args:
            skip: Told of each run that is left to another process.
        """
        for run in list(self.left):
            if unmet(run.folder, self._needs.get(run.run_id, ())):
                continue
            self.left.remove(run)
            if read_status(run.folder).state != "done" and not is_locked(run.folder):
                return run
            skip(run)
        return None

    def is_held(self, run: Startable, skip: Callable[[Startable], None]) -> None:
        """Note that a run which was taken is under way in another process."""
        skip(run)

    def leave_waiting(self) -> None:
        """Write down for what is left which of its needs it waits for in vain."""
        for run in self.left:
            if reason := unmet(run.folder, self._needs.get(run.run_id, ())):
                leave_waiting(run.folder, reason)


class SharedQueue(Queue):
    """The same for one of several processes, anywhere, that take from one list.

    What another holds is looked at until it is done, for that process may be killed. A run that
    failed is left alone; one that was killed in `_KILLS` attempts without an epoch between them has
    failed, too, or it would end one process after the other.

    Args:
        runs: In the order in which they were listed; each process begins at another place.
        needs: For a run's id the ids that must be done first.
        again: Failed runs that are to be tried once more, each with the number of its attempts.
    """

    def __init__(
        self,
        runs: Sequence[Startable],
        needs: Mapping[str, Sequence[str]],
        again: Mapping[str, int],
    ) -> None:
        first = random.SystemRandom().randrange(len(runs)) if runs else 0
        super().__init__((*runs[first:], *runs[:first]), needs)
        self._again = again
        self._next_look = 0.0

    def take(self, skip: Callable[[Startable], None]) -> Startable | None:
        """Take out the first that may start; None if there is none now."""
        begun = time.monotonic()
        if begun < self._next_look:
            return None
        self.is_waiting = False
        for run in list(self.left):
            # In this order: it may end between the two looks.
            is_held, status = is_locked(run.folder), read_status(run.folder)
            if not is_held and status.state == "running" and _is_deadly(status):
                status = _failed(run.folder, status)
            tried = self._again.get(run.run_id) != status.attempts
            if status.state == "done" or (status.state == "failed" and tried):
                self.left.remove(run)
                self.is_waiting = True  # something may have waited for it
                skip(run)
            elif is_held:
                self.is_waiting = True
            elif unmet(run.folder, self._needs.get(run.run_id, ())) is None:
                self.left.remove(run)
                self._next_look = 0.0
                return run
        now = time.monotonic()
        self._next_look = now + max(_LOOK_SECONDS, 20 * (now - begun))  # 5 % of the time at most
        return None

    def is_held(self, run: Startable, skip: Callable[[Startable], None]) -> None:  # noqa: ARG002
        """Keep an eye on it."""
        self.left.append(run)


def _is_deadly(killed: Status) -> bool:
    """Whether a run that was killed again came no further than when it was killed before."""
    before = killed.history[1 - _KILLS :]
    states = [each["state"] for each in before]
    return states == ["killed"] * (_KILLS - 1) and killed.epoch <= before[0]["epoch"]


def _failed(folder: Path, killed: Status) -> Status:
    reason = f"killed {_KILLS} times at the same place, epoch {killed.epoch}; see log.txt"
    failed = replace(killed, state="failed", reason=reason)
    with run_lock(folder) as free:
        if free and read_status(folder) == killed:
            write_status(folder, failed)
    return failed

"""Ends a process in good order: when it is asked to stop, and when it makes no step any more."""

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from lightning import Callback

from experiments.run_folder.failures import duration
from experiments.training.ranks import Ranks

GRACE_SECONDS = 5.0
"""How long a training run that is asked to stop waits for the end of its epoch, to save it."""

INTERRUPTED = 130
"""Exit code of a run that was asked to stop, as of a shell's command after Ctrl-C."""

_POLL_SECONDS = 0.5
_STARTING_SECONDS = 600.0  # weights are fetched, processes find one another, kernels are chosen
_DUMP_SECONDS = 2.0  # for the other ranks to write their stacks, before their first one ends them


class StopRequestedError(Exception):
    """The process was asked to stop, and stops at a place where nothing is lost."""


class Watch(threading.Thread):
    """A thread beside the work, for the main one may be waiting in a collective or a decoder.

    Asked to stop (SIGTERM, or Ctrl-C in a terminal of its own), a run that trains gets some
    seconds to come to the end of its epoch, where `LastCheckpoint` writes and raises; another ends
    at once and goes on from `last.ckpt`. A state within an epoch is never written: what is resumed
    from it would not end as if undisturbed. A second Ctrl-C ends at once.

    Without a step in `stall_seconds` the process writes its stacks to the log and ends. SIGUSR1
    writes them at any time.

    Args:
        has_terminal: Whether Ctrl-C is meant for this process; one that a sweep or a first rank
            started leaves it to that.
        is_first: Whether this is the first rank, whose end ends the others.
        ranks: Those that this process started.
    """

    def __init__(self, *, has_terminal: bool, is_first: bool, ranks: Ranks | None = None) -> None:
        super().__init__(name="ceus-watch", daemon=True)
        self.stall_seconds: float | None = None
        self.on_end: Callable[[Literal["interrupted", "failed"], str], None] = _nothing
        self._has_terminal = has_terminal
        self._is_first = is_first
        self.ranks = ranks
        self._asked_for = 0.0  # seconds since it was asked to stop
        self._asked: str | None = None
        self._idle = 0.0  # seconds since the last step
        self._has_stepped = False
        self._is_training = False
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)

    @property
    def asked(self) -> str | None:
        """The signal by which this process was asked to stop."""
        return self._asked

    def stopping(self) -> bool:
        """Whether this process was asked to stop."""
        return self._asked is not None

    def begin(self) -> None:
        """Take the signals, on the main thread, and start to watch."""
        # The interpreter runs handlers on the main thread only; the bytes come here at once.
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        faulthandler.enable(all_threads=True)
        self.take_signals()
        self.start()

    def take_signals(self) -> None:
        """Take them again: Lightning's handler of SIGTERM starts a collective where it stands."""
        signal.signal(signal.SIGTERM, _nothing)
        signal.signal(signal.SIGINT, _nothing if self._has_terminal else signal.SIG_IGN)
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)

    def step(self, *, training: bool | None = None) -> None:
        """Note that the work goes on.

        Args:
            training: Whether an epoch's end, to be saved, is ahead; None to leave that as it is.
        """
        self._idle = 0.0
        self._has_stepped = True
        self._is_training = self._is_training if training is None else training

    def run(self) -> None:
        """Watch until the process ends."""
        last = armed = time.monotonic()
        while True:
            asked_again = self._listen()
            now = time.monotonic()
            # Not by the clock: a process that was suspended has not stalled.
            passed, last = min(now - last, 2 * _POLL_SECONDS), now
            if self._asked is not None:
                self._asked_for += passed
                if asked_again or not self._is_training or self._asked_for > GRACE_SECONDS:
                    self._end("interrupted", f"stopped by {self._asked}", INTERRUPTED)
            if self.ranks and self.ranks.are_lost():
                self.ranks.note_killed()
                self.ranks.end()
                os._exit(1)  # a state that says "running" has the sweep read what they left
            self._idle += passed
            limit = self._limit()
            if limit is not None and self._idle > limit:
                self._stalled()
            if limit is not None and now - armed > 10 * _POLL_SECONDS:
                # Should this thread itself not get to run: a lock held by code outside Python.
                faulthandler.dump_traceback_later(limit + 60, exit=True)
                armed = now

    def _listen(self) -> bool:
        """Wait for signals; whether a terminal asked for the second time."""
        again = False
        ready, _, _ = select.select([self._read], [], [], _POLL_SECONDS)
        for number in os.read(self._read, 64) if ready else b"":
            if number in (signal.SIGTERM, signal.SIGINT):
                again |= self._asked is not None and number == signal.SIGINT
                self._asked = self._asked or ("Ctrl-C" if number == signal.SIGINT else "SIGTERM")
        return again

    def _limit(self) -> float | None:
        if self.stall_seconds is None or self._has_stepped:
            return self.stall_seconds
        return max(self.stall_seconds, _STARTING_SECONDS)

    def _stalled(self) -> None:
        reason = f"stalled: no step in {duration(self._idle)}; all stacks are in log.txt"
        with contextlib.suppress(OSError):  # a full disk must not keep it from ending
            print(f"process {os.getpid()} {reason}", file=sys.stderr, flush=True)
            faulthandler.dump_traceback(all_threads=True)
        # The others stalled with this one. They leave it to the first to end them.
        time.sleep(_DUMP_SECONDS if self._is_first else 10 * _DUMP_SECONDS)
        self._end("failed", reason, 1)

    def _end(self, state: Literal["interrupted", "failed"], reason: str, code: int) -> None:
        with contextlib.suppress(OSError):
            self.on_end(state, reason)
        os._exit(code)


class Steps(Callback):
    """Tells the watch of every step of the trainer."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_train_start(self, *_: Any) -> None:
        """The signal handlers of Lightning are in place: take the signals back."""
        self._watch.take_signals()
        self._watch.step(training=True)

    def on_predict_start(self, *_: Any) -> None:
        """As for training, with nothing to be saved."""
        self._watch.take_signals()
        self._watch.step(training=False)

    def on_train_end(self, *_: Any) -> None:
        """Nothing more is to be saved."""
        self._watch.step(training=False)

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        """A step."""
        self._watch.step()

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """A step."""
        self._watch.step()

    def on_predict_batch_end(self, *_: Any, **__: Any) -> None:
        """A step."""
        self._watch.step()


def _nothing(*_: object) -> None:
    pass

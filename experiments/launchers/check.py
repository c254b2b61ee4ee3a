"""Configurations held against their constructors, and weights looked at, before anything starts."""

import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from typing import Any

from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.launchers.modalities import check_modalities
from experiments.processes import MORE_MEMORY, memory_complaint, start, warm_server


def check_runs(runs: Sequence[Run]) -> ForkServerContext:
    """Hold every configuration against the constructors that it names, and load its weights once.

    Returns:
        A process from which runs are forked.

    Raises:
        ConfigError: For the first that does not fit, or whose weights cannot be had; for all cells
            whose modality patients lack.
    """
    context = warm_server()
    check_modalities(runs)
    if runs:
        _check_all(context, runs)
    return context


def _check_all(context: ForkServerContext, runs: Sequence[Run]) -> None:
    """Hold every configuration against the constructors, in a child: this process has no torch."""
    ours, theirs = context.Pipe(duplex=False)
    # One of each cell: the name of a cell holds all but fold and seed, which are checked already.
    configs = list(
        {(run.study.architecture, run.study.modality): run.config for run in runs}.values()
    )
    # A daemon: after Ctrl-C nobody waits for it.
    process = context.Process(target=_check_child, args=(theirs, configs), daemon=True)
    start(process)
    theirs.close()
    try:
        complaint = ours.recv()
    except EOFError:
        process.join()
        complaint = (
            f"check of the configurations must end, got one that died with exit code "
            f"{process.exitcode}. {MORE_MEMORY}"
        )
    if complaint:
        raise ConfigError(complaint)


def _check_child(answer: Connection, configs: list[dict[str, Any]]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        from experiments.training.build import check
        from experiments.training.weights import check_weights

        check(configs)
        check_weights(configs)
        answer.send(None)
    except ConfigError as error:
        answer.send(str(error))
    except Exception as error:
        complaint = memory_complaint(error)
        if not complaint:
            raise
        answer.send(complaint)

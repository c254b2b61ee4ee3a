"""The further ranks of a run on its machine, forked from its first process.

Lightning's own launcher calls the command line again for each: an interpreter that imports for
ten seconds what this one has imported. A fork has it all. It sets what Lightning reads where
processes are started for it (`LightningEnvironment`, as under torchrun): LOCAL_RANK, NODE_RANK,
WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import contextlib
import multiprocessing
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments.lsf import LSFEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only

from experiments.config.files import load_yaml
from experiments.errors import ConfigError
from experiments.run_folder.failures import leave_note, reason_of_signal

_LOST_SECONDS = 5.0  # for the first rank to see by itself that another is gone


class Ranks:
    """What the first process of a run knows of the others that it started.

    Args:
        folder: The run's folder.
        processes: Ranks 1 and further.
    """

    def __init__(self, folder: Path, processes: Sequence[BaseProcess] = ()) -> None:
        self._folder = folder
        self._processes = processes
        self._failed_at: float | None = None

    def are_lost(self) -> bool:
        """Whether one failed and the first rank has not noticed: it would wait for ever."""
        if not any(self._codes().values()):
            return False
        self._failed_at = self._failed_at or time.monotonic()
        return time.monotonic() - self._failed_at > _LOST_SECONDS

    def note_killed(self) -> None:
        """Leave word for those that were killed and left none."""
        time.sleep(1.0)  # one that is gone may be about to be seen as gone
        for rank, code in self._codes().items():
            if code < 0:
                reason = reason_of_signal(-code)
                with contextlib.suppress(OSError):  # of a full disk
                    leave_note(self._folder, rank, ConfigError(reason), reason)

    def end(self) -> None:
        """End those that are left."""
        for process in self._processes:
            process.kill()
            process.join()

    def _codes(self) -> dict[int, int]:
        codes = {rank: process.exitcode for rank, process in enumerate(self._processes, start=1)}
        return {rank: code for rank, code in codes.items() if code is not None}


def fork_ranks(folder: Path, work: Callable[[], None]) -> Ranks:
    """Start the further ranks of this machine, before this process has threads or a device.

    None where something else starts a run's processes (SLURM, torchrun), and none for a folder
    whose configuration cannot be read: that is told of later.

    Args:
        folder: The run's folder.
        work: What each does, as this process will.
    """
    try:
        trainer = load_yaml(folder / "config.yaml")["trainer"]
        count = _processes(trainer)
    except Exception:  # noqa: BLE001  whatever is wrong, the work itself says it better
        return Ranks(folder)
    if count == 1 or _is_started_from_outside():
        return Ranks(folder)
    nodes = trainer.get("num_nodes", 1)
    if nodes == 1:  # else whoever starts the first process on each node says where they meet
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        os.environ["NODE_RANK"] = "0"
    first = int(os.environ.get("NODE_RANK", "0")) * count
    os.environ |= {"WORLD_SIZE": str(count * nodes), "LOCAL_RANK": "0"}
    rank_zero_only.rank = first  # type: ignore[attr-defined]
    context = multiprocessing.get_context("fork")
    further = [
        context.Process(target=_further, args=(rank, first + rank, work), daemon=True)
        for rank in range(1, count)
    ]
    for process in further:
        process.start()
    return Ranks(folder, further)


def _further(local: int, rank: int, work: Callable[[], None]) -> None:
    os.environ["LOCAL_RANK"] = str(local)
    rank_zero_only.rank = rank  # type: ignore[attr-defined]  # read when it was imported
    work()


def _processes(trainer: Mapping[str, Any]) -> int:
    """Processes of a run on each of its machines, as Lightning counts them; it opens no device."""
    if isinstance(trainer["devices"], int) and trainer["devices"] > 0:
        return int(trainer["devices"])
    asked = {name: trainer[name] for name in ("accelerator", "devices") if name in trainer}
    return Trainer(**asked, logger=False, enable_checkpointing=False).num_devices


def _is_started_from_outside() -> bool:
    """As Lightning detects that something else starts a run's processes."""
    return "LOCAL_RANK" in os.environ or SLURMEnvironment.detect() or LSFEnvironment.detect()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])

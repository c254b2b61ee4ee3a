"""`ceus work`: one of any number of processes, on any machines, that share the runs of a sweep.

They know of each other by the runs' locks only (`experiments.run_folder.lock`). A worker stays
until no run is left that it could take over, and leaves no file of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from evaluation.records.listing import FORMAT, ListedRun, read_listing
from experiments.config.run import load_run
from experiments.errors import ConfigError
from experiments.launchers.check import check_runs
from experiments.launchers.go import print_ends
from experiments.launchers.local import work_off
from experiments.launchers.order import SharedQueue
from experiments.launchers.progress import Progress
from experiments.launchers.slots import slots
from experiments.processes import warm_server
from experiments.run_folder.status import Status, read_status
from experiments.sweeps.file import LauncherSettings
from experiments.tracking.wandb_run import check_environment


@dataclass(frozen=True)
class _Place:
    """A run by its folder: 3,000 configurations are not read to start one."""

    folder: Path
    architecture: str

    @property
    def run_id(self) -> str:
        return self.folder.name


def work(folder: Path, *, parallel: int | None = None, failed: bool = False) -> int:
    """Train and score runs of a sweep together with other workers, until none is left.

    Args:
        folder: Sweep folder, as runs/demo, which `ceus sweep` has made; all workers see it.
        parallel: Runs at a time in this worker; by default one a GPU, or two where there is none.
        failed: Try those once more that have failed before.

    Returns:
        The exit code: 0 if all runs are done, 1 if not, 2 for what the user can mend.
    """
    context = warm_server()
    listing = read_listing(folder)
    if listing.format != FORMAT:
        raise ConfigError(
            f"format of the sweep must be {FORMAT}, got {listing.format} ({folder}): runs were "
            "named in another way then. Give the sweep another name=."
        )
    statuses = {run.run_id: read_status(folder / run.run_id) for run in listing.runs}
    left = [run for run in listing.runs if _is_left(statuses[run.run_id], failed=failed)]
    examples = [load_run(folder / run.run_id) for run in _one_a_cell(left)]
    devices = {run.config["trainer"]["devices"] for run in examples} - {"auto"}
    settings = LauncherSettings(
        parallel="auto" if parallel is None else parallel, devices_per_run=max(devices, default=1)
    )
    free = slots(settings, examples)
    if any(run.study.wandb for run in examples):
        check_environment()
    check_runs(examples)
    queue = SharedQueue(
        [_Place(folder / run.run_id, run.architecture) for run in left],
        {run.run_id: run.needs for run in left},
        {name: each.attempts for name, each in statuses.items() if each.state == "failed"},
    )
    with Progress(done=len(listing.runs) - len(left), total=len(listing.runs)) as progress:
        codes = work_off(queue, free, settings, context, progress)
    places = [_Place(folder / run.run_id, run.architecture) for run in listing.runs]
    ends = {place.run_id: read_status(place.folder).state for place in places}
    print_ends(
        folder, places, [(p, codes.get(p.run_id, 1)) for p in places if ends[p.run_id] == "failed"]
    )
    if all(state == "done" for state in ends.values()):
        return 0
    return 2 if codes and set(codes.values()) == {2} else 1


def _is_left(status: Status, *, failed: bool) -> bool:
    return status.state != "done" and (failed or status.state != "failed")


def _one_a_cell(runs: Sequence[ListedRun]) -> list[ListedRun]:
    return list({(run.architecture, run.modality): run for run in runs}.values())

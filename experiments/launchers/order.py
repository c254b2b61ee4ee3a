"""In which order runs start that wait for others."""

from collections.abc import Mapping, Sequence

from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.run_folder.needs import unmet


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


def take_ready(queue: list[Run], needs: Mapping[str, Sequence[str]]) -> Run | None:
    """Take the first run out of a queue whose needs are done; None if there is none."""
    for run in queue:
        if unmet(run.folder, needs.get(run.run_id, ())) is None:
            queue.remove(run)
            return run
    return None

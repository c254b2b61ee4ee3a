"""A first comparison while a sweep runs: cells whose runs are all done, by their predictions."""

from pathlib import Path

import numpy as np

from evaluation.records.listing import FILE, read_listing
from experiments.run_folder.status import read_status
from experiments.sweeps.deploy import oof_auc


def so_far(folder: Path, architecture: str) -> str:
    """What an architecture reaches out of fold, modality by modality, as far as it is known.

    Args:
        folder: Of the sweep.
        architecture: As the list of runs names it.

    Returns:
        `resnet so far: image 0.792, video 0.870 (AUC out of fold)`, means over folds and seeds of
        the cells that are whole; "" where none is, or where what they wrote cannot be read.
    """
    cells: dict[str, list[Path]] = {}
    if not (folder / FILE).is_file():  # a run that was moved out of its sweep
        return ""
    for run in read_listing(folder).runs:
        if run.architecture == architecture and run.fold not in ("all", "none"):
            cells.setdefault(run.modality, []).append(folder / run.run_id)
    means = []
    for modality, runs in cells.items():
        if all(read_status(run).state == "done" for run in runs):
            try:
                means.append(f"{modality} {np.mean([oof_auc(run) for run in runs]):.3f}")
            except (OSError, ValueError, KeyError):
                continue  # evaluation says what is wrong with it
    return f"{architecture} so far: {', '.join(means)} (AUC out of fold)" if means else ""

"""`selection: refit`: inner validation says how many epochs, then all training patients are fitted.

The number stands in the run's `refit.json` once it is known; until then `checkpoints/` belongs to
the fit that looks for it, from then on to the one that is kept.
"""

import json
from pathlib import Path

import torch
from lightning import Trainer

from datamodules.files import write_atomic
from experiments.errors import ConfigError
from experiments.run_folder.status import BEST
from experiments.training.resume import forget

_NAME = "refit.json"


def chosen_epochs(folder: Path) -> int | None:
    """Epochs that an earlier attempt, or this one, has found; None if none has."""
    path = folder / _NAME
    if not path.is_file():
        return None
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["epochs"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{_NAME} must hold the number of epochs, got {error!r} ({path}). Delete the run's "
            "folder and start the sweep again."
        ) from error


def choose_epochs(folder: Path, trainer: Trainer) -> int:
    """Take the number of the best checkpoint and clear `checkpoints/` for the second fit.

    Checkpoints go before the number is written: killed between, a run looks again, and never goes
    on with the first fit's weights as if they were the second's.

    Args:
        folder: The run's folder.
        trainer: Of the first fit, whose processes wait for each other.
    """
    checkpoints = folder / "checkpoints"
    epochs = 1 + int(torch.load(checkpoints / BEST, map_location="cpu", weights_only=True)["epoch"])
    trainer.strategy.barrier()
    if trainer.is_global_zero:
        forget(folder)
        (checkpoints / BEST).unlink()
        write_atomic(folder / _NAME, json.dumps({"epochs": epochs}))
    trainer.strategy.barrier()
    return epochs

"""The contract of a sweep folder: who writes it (`experiments`) and who reads it use these names.

See docs/design.md, "Sweep folder" and "Predictions table".
"""

from typing import Literal, get_args

State = Literal["done", "running", "failed", "killed", "interrupted", "pending"]
"""How a run stands, in the order in which states are shown.

`interrupted` was asked to stop. `killed` ended without a word: its `status.json` still says
`running`, with nobody holding the run's lock.
"""

STATES: tuple[State, ...] = get_args(State)

Part = Literal["train", "inner_val", "oof", "test"]
"""A part of the split, scored by a run; a run of fold `all` has no `oof`."""

PARTS: tuple[Part, ...] = get_args(Part)

MODALITIES = ("image", "video")
"""Modalities that a combined model is made of."""

ITEMS = ("image", "ceus")
"""Modalities of a store's items, in the order in which tables show them."""

CELL = ("architecture", "modality", "fold", "seed")
"""What tells the runs of a sweep apart. The name of a fold tells its partition, too."""

REPEAT = "repeat"
"""Axis of the partitions; it has no say in the name of a cell."""

RUN_COLUMNS = ("run_id", *CELL)
SCORE_COLUMNS = ("part", "patient_id", "label", "logit", "probability", "n_items")
"""One row a patient and part: label NaN where sealed; probability in [0, 1]; n_items scored."""

RUN_SHAS = ("config_sha", "split_sha", "store_sha")
"""SHA-256 of what the result is a function of; a run's id stands for them."""

PREDICTION_COLUMNS = (*RUN_COLUMNS, *SCORE_COLUMNS, *RUN_SHAS, "checkpoint_sha")
"""Columns of `predictions.parquet`, in order."""


def fold_name(fold: int | str, repeat: int = 0) -> str:
    """A fold as it is named in runs and tables: `0`; `0r2` of repeat 2; `all` of none."""
    return f"{fold}r{repeat}" if repeat and isinstance(fold, int) else str(fold)


def within_repeat(name: str) -> str:
    """A fold's name within its partition: `0` of `0r2`."""
    return name.partition("r")[0]


def repeat_of(name: str) -> int:
    """The partition that a fold's name tells, from 0."""
    return int(name.partition("r")[2] or 0)

"""From scored rows to one score a patient, exact whatever the number of processes."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    import torch

COLUMNS = ("row_key", "item_id", "patient_id", "label", "logit")
Column = Iterable[Any]
"""One value a row: a list, or something that gives them when asked."""


class Late:
    """A column that stays on its device until it is iterated over.

    Asked for after each batch, values make the host wait until that batch is through, and the
    device then waits for the host. No tensor itself, for Lightning fetches those after each batch.

    Args:
        values: `(B,)`, given as Python numbers, or `(B, F)`, given as arrays of NumPy.
    """

    def __init__(self, values: "torch.Tensor") -> None:
        self._values = values.detach()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values.tolist() if self._values.ndim == 1 else self._values.cpu().numpy())


def rows_of(batch: Mapping[str, Any], logits: "torch.Tensor") -> dict[str, Column]:
    """Pair the identity of each row of a batch with its logit.

    Args:
        batch: A batch (docs/design.md, Batch) of B rows.
        logits: `(B,)`, any float type.

    Returns:
        The columns `row_key, item_id, patient_id, label, logit`, each of length B; label and logit
        give Python floats (float64), label NaN where it is sealed.
    """
    return {
        "row_key": list(batch["row_key"]),
        "item_id": list(batch["item_id"]),
        "patient_id": list(batch["patient_id"]),
        "label": Late(batch["label"].double()),
        "logit": Late(logits.double()),
    }


def gather_rows(rows: Sequence[Mapping[str, Column]]) -> pd.DataFrame:
    """Collect the rows of every process, each row once, in one order.

    Must be called by all processes of the group, also by one that scored nothing. A row that two
    processes scored (a repeated one) counts once; the order is that of `row_key`, so means over
    rows do not depend on how rows were dealt out.

    Args:
        rows: What this process scored, as `rows_of` gives it, with further columns if it has some.

    Returns:
        The columns, one line a row.
    """
    from torch import distributed

    columns = list(rows[0]) if rows else list(COLUMNS)
    own_columns = {c: [value for part in rows for value in part[c]] for c in columns}
    parts: list[Any] = [own_columns]
    if distributed.is_available() and distributed.is_initialized():
        parts = [None] * distributed.get_world_size()
        distributed.all_gather_object(parts, own_columns)
    table = pd.concat([pd.DataFrame(part, columns=list(part)) for part in parts])
    return table.drop_duplicates("row_key").sort_values("row_key", ignore_index=True)


def patient_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Average a patient's items on the logit scale, each the mean of its own rows.

    An item counts once, however many windows of it were scored.

    Args:
        rows: As `gather_rows` gives them.

    Returns:
        One line a patient, sorted: `patient_id, label, logit, n_items` (distinct items scored).
    """
    by_item = rows.groupby(["patient_id", "item_id"], sort=True)
    items = by_item.agg(label=("label", "first"), logit=("logit", "mean"))
    scores = items.groupby("patient_id", sort=True).agg(
        label=("label", "first"), logit=("logit", "mean"), n_items=("logit", "size")
    )
    return scores.reset_index()

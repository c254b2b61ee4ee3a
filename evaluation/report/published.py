"""The figures that the reference study prints, to stand beside ours: another cohort, marked so.

Frontiers in Endocrinology 2025, doi 10.3389/fendo.2025.1634875, abstract; the modality that it
calls CEUS video is our `video`.
"""

import csv
from importlib.resources import files

import pandas as pd

SOURCE = "doi 10.3389/fendo.2025.1634875"
_COUNTS, _NAMES = ("patients", "events"), ("modality", "part")


def published() -> pd.DataFrame:
    """One row a modality and part (`train`, `test`): patients, events, AUC with its ends, rates."""
    text = (files("evaluation.report") / "published.csv").read_text(encoding="utf-8")
    # Not pandas: its default parser is off by an ulp in some of its versions.
    table = pd.DataFrame(csv.DictReader(text.splitlines()))
    figures = [name for name in table if name not in (*_NAMES, *_COUNTS)]
    return table.astype(dict.fromkeys(_COUNTS, int) | dict.fromkeys(figures, float))

"""The figures that the reference study prints, to stand beside ours: another cohort, marked so.

Frontiers in Endocrinology 2025, doi 10.3389/fendo.2025.1634875, abstract; the modality that it
calls CEUS video is our `video`.
"""

from importlib.resources import files
from io import StringIO

import pandas as pd

SOURCE = "doi 10.3389/fendo.2025.1634875"


def published() -> pd.DataFrame:
    """One row a modality and part (`train`, `test`): patients, events, AUC with its ends, rates."""
    text = (files("evaluation.report") / "published.csv").read_text(encoding="utf-8")
    return pd.read_csv(StringIO(text), float_precision="round_trip")

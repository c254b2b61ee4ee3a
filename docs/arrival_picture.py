"""One picture of arrivals and peaks as `ceus prepare` finds them, against the phantom's truth."""

from pathlib import Path
from typing import Any

import numpy as np

from datamodules.store.clip_file import read_index
from datamodules.store.folder import Store
from docs.phantom_picture import phantom_patients, save

_PANELS = 6


def draw_arrivals(cohort_dir: Path, store: Path, out_png: Path) -> Path:
    """Draw time-intensity curves of a phantom cohort, from the earliest arrival to the latest.

    Args:
        cohort_dir: Folder made by `make_phantom`.
        store: Store prepared from it.
        out_png: Picture to write.

    Returns:
        `out_png`.

    Raises:
        DataError: `cohort_dir` holds no phantom, or `store` is no store.
    """
    from matplotlib.figure import Figure

    opened = Store(store)
    patients = phantom_patients(cohort_dir)
    single = {p["patient_id"]: p["clips"][0]["boluses"] for p in patients if len(p["clips"]) == 1}
    items = opened.items[opened.items["modality"] == "ceus"]
    items = items[items["patient_id"].isin(single)].sort_values("arrival_s")
    chosen = items.iloc[np.unique(np.linspace(0, len(items) - 1, _PANELS).round().astype(int))]

    figure = Figure(figsize=(11, 5), layout="constrained")
    grid = figure.subplots(2, _PANELS // 2, squeeze=False)
    for axes, (_, row) in zip(grid.flat, chosen.iterrows(), strict=False):
        index = read_index(opened.item_path(row["item_id"], ".idx"))
        _draw_clip(axes, index, row, single[row["patient_id"]])
    for axes in grid[:, 0]:
        axes.set_ylabel("mean grey level")
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    handles, labels = grid.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return save(figure, out_png)


def _draw_clip(axes: Any, index: Any, row: Any, boluses: dict[str, dict[str, float]]) -> None:
    truth = min(bolus["arrival_s"] for bolus in boluses.values())
    peaks = [boluses[region]["peak_s"] for region in ("carotid", "thyroid", "nodule")]
    axes.plot(index["pts"], index["level"], color="0.35", linewidth=1.2, label="stored curve")
    axes.axvline(truth, color="#0072B2", linewidth=4, alpha=0.35, label="true arrival")
    axes.axvline(row["arrival_s"], color="#0072B2", linewidth=1.2, label="arrival found")
    axes.axvspan(
        min(peaks), max(peaks), color="#D55E00", alpha=0.2, linewidth=0,
        label="true peaks of artery, thyroid and nodule",
    )  # fmt: skip
    axes.axvline(row["peak_s"], color="#D55E00", linewidth=1.2, linestyle="--", label="peak found")
    axes.set_title(
        f"arrival {row['arrival_s'] - truth:+.2f} s, confidence {row['arrival_confidence']:.2f}",
        fontsize=9,
    )
    axes.set_ylim(bottom=0)

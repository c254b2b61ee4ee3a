"""`ceus tic`: of every clip of a store a row a region, its curves, and a picture a patient."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import track

from datamodules.errors import DataError
from datamodules.files import storing, write_atomic
from datamodules.names import is_name
from datamodules.perfusion.bolus import PARAMETERS, Fit, fit_bolus
from datamodules.perfusion.curves import LESION, PARENCHYMA, Box, Curves, read_curves
from datamodules.perfusion.picture import Clip, draw
from datamodules.store.folder import Store

_RANGES_DB = (20.0, 120.0)  # what scanners offer, with room
_MOST_WHITE = 0.02  # of a region's pixels: with more the peak is cut off
_MOST_LOST = 0.1  # of a clip's frames
RATIO = f"{LESION}/{PARENCHYMA}"


def tic(
    store: Path,
    *,
    out: Path | None = None,
    dynamic_range: float | None = None,
    box: Sequence[str] = (),
    progress: bool = True,
) -> Path:
    """Time-intensity curves and perfusion parameters of every clip.

    Args:
        store: A prepared store.
        out: Folder for tables and pictures; by default `tic` in the store.
        dynamic_range: Of the scanner's display, in dB: grey values are made linear by it. Without
            it parameters are on display values, and marked so.
        box: Region x,y,w,h in pixels of the stored frames, of every clip; by default lesion and
            parenchyma where the cohort table gave a mask, else the whole field.
        progress: Show a bar on stderr.

    Returns:
        The table, `perfusion.csv`; `curves.csv` and the pictures are beside it.

    Raises:
        DataError: If the store has no clip, a file of it is damaged, or a setting is not usable.
    """
    opened = Store(store, with_unlabelled=True)
    region = _box(box, opened.canvas)
    low, high = _RANGES_DB
    if dynamic_range is not None and not low <= dynamic_range <= high:
        raise DataError(
            f"dynamic_range must be {low:g} to {high:g} dB, got {dynamic_range!r}. The scanner "
            "shows it beside the picture as DR, C or dB; leave it out if it is not known."
        )
    clips = opened.items[opened.items["modality"] == "ceus"]
    if clips.empty:
        raise DataError(
            f"store must hold clips, got images only ({opened.path}). A curve is of a clip: add "
            "rows of modality ceus to the cohort table and prepare it again."
        )
    folder = Path(out) if out else opened.path / "tic"
    rows: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    with storing(folder, "Or name another folder: --out FOLDER."):
        folder.mkdir(parents=True, exist_ok=True)
        console = Console(stderr=True)
        for patient, items in track(
            list(clips.groupby("patient_id")), "tic", console=console, disable=not progress
        ):
            shown = []
            for item_id in items["item_id"]:
                curve = read_curves(opened, item_id, box=region, range_db=dynamic_range)
                fits = {
                    name: fit_bolus(curve.seconds, values)
                    for name, values in curve.intensity.items()
                }
                rows += _rows(str(patient), item_id, curve, fits, dynamic_range)
                curves.append(_samples(item_id, curve, fits))
                shown.append(Clip(curve, fits))
            first = items["item_id"].iloc[0]
            name = str(patient) if is_name(str(patient)) else first
            write_atomic(folder / f"{name}.png", draw(shown, unit=_unit(dynamic_range)))
        write_atomic(folder / "curves.csv", _csv(pd.concat(curves)))
        table = pd.DataFrame(rows).astype({"pixels": "Int64"})
        write_atomic(folder / "perfusion.csv", _csv(table))
    _tell(console, folder, table)
    return folder / "perfusion.csv"


def _box(parts: Sequence[str], canvas: int) -> Box | None:
    if not parts:
        return None
    try:
        x, y, width, height = (int(part) for part in parts)
        if min(x, y) < 0 or min(width, height) < 1 or max(x + width, y + height) > canvas:
            raise ValueError
    except ValueError:
        raise DataError(
            f"box must be x,y,w,h in whole pixels inside the stored frames of {canvas}×{canvas}, "
            f"got {','.join(parts)!r}. x and y are of its upper left corner."
        ) from None
    return x, y, width, height


def _unit(range_db: float | None) -> str:
    """Of intensities, in words."""
    return "display values" if range_db is None else f"linear, {range_db:g} dB"


def _rows(
    patient: str, item_id: str, curve: Curves, fits: dict[str, Fit], range_db: float | None
) -> Iterator[dict[str, Any]]:
    parameters = {name: fit.parameters() for name, fit in fits.items()}
    moved = float(np.hypot(*curve.moved.T).max())
    common = {"patient_id": _cell(patient), "item_id": item_id, "intensity": _unit(range_db)}
    clip = {"moved_px": round(moved, 2), "frames_lost": curve.lost}
    for name, fit in fits.items():
        notes = list(fit.notes)
        if curve.saturated[name] > _MOST_WHITE:
            share = f"{100 * curve.saturated[name]:.0f} %"
            notes.append(f"{share} of the region white in a frame: PE, areas and rates too low")
        if curve.lost > _MOST_LOST * len(curve.seconds):
            notes.append("structure lost in many frames: motion not compensated there")
        baseline = fit.bolus.baseline if fit.bolus else math.nan
        yield {
            **common, "region": name, **_named(parameters[name]), "baseline (I)": baseline,
            "R2": fit.r2, "pixels": int(curve.regions[name].sum()), **clip,
            "notes": "; ".join(notes),
        }  # fmt: skip
    if len(fits) > 1:
        ratios = {
            name: parameters[LESION][name] / parameters[PARENCHYMA][name] for name in PARAMETERS
        }
        # Arrival is counted from the clip's start, which is no property of tissue.
        ratios["AT"] = math.nan
        yield {**common, "region": RATIO, **_named(ratios), **clip, "notes": "ratios, no units"}


def _named(parameters: dict[str, float]) -> dict[str, float]:
    return {f"{name} ({unit})": float(parameters[name]) for name, unit in PARAMETERS.items()}


def _samples(item_id: str, curve: Curves, fits: dict[str, Fit]) -> pd.DataFrame:
    """Every frame of a clip a row and region."""
    y, x = curve.moved.T.round(2)
    parts = []
    for name, values in curve.intensity.items():
        bolus = fits[name].bolus
        fitted = bolus(curve.seconds) if bolus else math.nan
        columns = {
            "item_id": item_id, "region": name, "second": curve.seconds, "intensity": values,
            "fitted": fitted, "moved_x_px": x, "moved_y_px": y,
        }  # fmt: skip
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts)


def _csv(table: pd.DataFrame) -> str:
    return table.to_csv(index=False, float_format="%.6g")


def _cell(text: str) -> str:
    """An id that no spreadsheet computes."""
    return f"'{text}" if text[:1] in "=+-@＝＋－＠'" else text


def _tell(console: Console, folder: Path, table: pd.DataFrame) -> None:
    regions = table[table["region"] != RATIO]
    fitted, short = regions["R2"].notna(), regions["notes"].str.contains("too short for wash-out")
    console.print(
        f"{folder}: {regions['item_id'].nunique()} clips of {regions['patient_id'].nunique()} "
        f"patients, {len(regions)} curves, on {regions['intensity'].iloc[0]}; a bolus fits "
        f"{fitted.sum()} of them, {short.sum()} end before wash-out; largest motion "
        f"{regions['moved_px'].max():.1f} pixels. Column notes says why.",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )

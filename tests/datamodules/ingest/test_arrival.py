"""Arrival and peak against the phantom's truth, through real files, and where there is no truth."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.ingest.arrival import Arrival, find_arrival, given_arrival
from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import PRESETS, make_phantom
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store
from docs.pictures import draw_arrivals, draw_augmentations

Curve = np.ndarray

# Fewer pixels, all else as shipped.
QUICK = {
    "demo": replace(
        PRESETS["demo"], patients=6, positives=3, clip_size=(64, 64), image_size=(32, 32)
    ),
    "published": replace(
        PRESETS["published"], patients=3, positives=1, test_patients=0, test_positives=0,
        clip_size=(96, 72), image_size=(32, 32), fps=(8, 10), clip_seconds=(26.0, 28.0),
        repeat_share=0.0,
    ),
}  # fmt: skip

INITIAL = {"demo": "P", "published": "Q"}  # of patient ids
run = partial(prepare, canvas=64, as_is=True, progress=False, workers=1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder: phantoms `demo` and `published`, `cohort.csv` of both, and its `store`."""
    folder = tmp_path_factory.mktemp("arrival")
    rows = []
    for name, preset in QUICK.items():
        table = make_phantom(folder / name, preset=preset, seed=7, workers=1, progress=False)
        for row in read_rows(table):
            ids = {"patient_id": INITIAL[name] + row["patient_id"][1:]}
            ids["path"] = f"{name}/{row['path']}"
            rows.append({"label": row["label"], "modality": row["modality"], **ids})
    write_rows(folder / "cohort.csv", rows)
    run(folder / "cohort.csv", folder / "store")
    return folder


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def true_arrivals(folder: Path, name: str) -> dict[str, list[float]]:
    """Of each patient's clips, sorted: contrast is there when it reaches the first region."""
    return {
        INITIAL[name] + patient["patient_id"][1:]: sorted(
            min(bolus["arrival_s"] for bolus in clip["boluses"].values())
            for clip in patient["clips"]
        )
        for patient in json.loads((folder / name / "truth.json").read_text())["patients"]
    }


def clips_of(folder: Path, *names: str) -> pd.DataFrame:
    items = Store(folder / "store").items
    initials = tuple(INITIAL[name] for name in names or INITIAL)
    return items[(items["modality"] == "ceus") & items["patient_id"].str.startswith(initials)]


@pytest.fixture(scope="module")
def example(cohort: Path) -> tuple[Curve, float, float]:
    """Curve, frames per second and true arrival of one clip of the published preset."""
    row = clips_of(cohort, "published").iloc[2]
    curve = ClipReader(cohort / "store").index(row["item_id"])["level"]
    (arrival,) = true_arrivals(cohort, "published")[row["patient_id"]]
    return np.array(curve, float), float(row["fps"]), arrival


@pytest.mark.parametrize("name", QUICK)
def test_arrival_is_found_within_half_a_second(cohort: Path, name: str) -> None:
    clips, truth = clips_of(cohort, name), true_arrivals(cohort, name)
    errors = np.concatenate(
        [
            np.sort(rows["arrival_s"]) - truth[patient]
            for patient, rows in clips.groupby("patient_id")
        ]
    )
    assert len(errors) == len(clips) >= 3
    assert (np.abs(errors) <= 0.5).mean() >= 0.95, errors
    assert (clips["arrival_confidence"] >= 0.5).all()
    assert (clips["peak_s"] > clips["arrival_s"] + 1).all()
    assert (clips["peak_s"] < clips["seconds"]).all()


def test_the_tables_hold_what_was_found(cohort: Path) -> None:
    store = Store(cohort / "store")
    images = store.items[store.items["modality"] == "image"]
    assert images[["arrival_s", "peak_s"]].isna().all(axis=None)
    assert (images["arrival_confidence"] == 0).all()
    quality = pd.read_csv(store.path / "quality.csv")
    columns = ["item_id", "arrival_s", "peak_s", "arrival_confidence"]
    pd.testing.assert_frame_equal(
        quality[columns], store.items[columns], check_dtype=False, check_exact=False
    )


def test_a_persons_arrival_wins_and_nothing_is_decoded_again(cohort: Path) -> None:
    store, given = cohort / "store", cohort / "given.csv"
    before, sha = clips_of(cohort), Store(store).sha
    files = {path: path.stat().st_mtime_ns for path in (store / "items").iterdir()}
    rows = read_rows(cohort / "cohort.csv")
    patient = "Q0001"
    for row in rows:
        row["arrival_s"] = {"ceus": "9", "image": "0"}[row["modality"]]
        row["arrival_s"] *= row["patient_id"] == patient
    write_rows(given, rows)
    run(given, store)
    after = clips_of(cohort)
    is_given = after["patient_id"] == patient
    assert is_given.any()
    assert (after.loc[is_given, "arrival_s"] == 9).all()
    assert (after.loc[is_given, "arrival_confidence"] == 1).all()
    assert (after.loc[is_given, "peak_s"] > 9).all()
    pd.testing.assert_frame_equal(after[~is_given], before[~is_given])
    assert Store(store).sha != sha, "other frames are seen: it is other work"
    run(cohort / "cohort.csv", store)
    pd.testing.assert_frame_equal(clips_of(cohort), before)
    assert files == {path: path.stat().st_mtime_ns for path in (store / "items").iterdir()}


def flash(curve: Curve, since: Curve, *, at: float, seconds: float) -> Curve:
    return np.where((since >= at) & (since < at + seconds), 200, curve)


# A curve, and the seconds since the arrival of each of its frames, to another curve.
Change = Callable[[Curve, Curve], Curve]

STILL_FOUND: dict[str, tuple[Change, str]] = {
    "frames lost to black": (lambda c, _: np.where(np.arange(len(c)) % 17 == 5, 0, c), ""),
    "short flash": (partial(flash, at=-5, seconds=0.2), ""),
    "long flash": (partial(flash, at=-5, seconds=0.8), "flash at "),
    "flash in wash-in": (partial(flash, at=3, seconds=0.8), "flash at "),
    "bubbles destroyed": (lambda c, s: np.where(s > 6, 5 + c / 3, c), ""),
    "gain up before": (lambda c, s: c + 15 * (s > -3), r"jumps \(gain\?\) at \d\.\d s"),
    "gain up after": (lambda c, s: c + 15 * (s > 12), "jumps"),
    "panel beside it": (lambda c, _: 25 + c / 2, ""),
    "breathing": (lambda c, s: c + np.sin(2 * np.pi * s / 4), ""),
    "frozen at first": (lambda c, s: np.where(s < s[0] + 1, c[0], c), ""),
    "cut off in wash-in": (lambda c, s: c[s < 4], "clip ends before the peak"),
}


@pytest.mark.parametrize("name", STILL_FOUND)
def test_what_real_clips_do_does_not_hide_the_arrival(
    example: tuple[Curve, float, float], name: str
) -> None:
    curve, fps, arrival = example
    change, warning = STILL_FOUND[name]
    result = find_arrival(change(curve, np.arange(len(curve)) / fps - arrival), fps=fps)
    assert result.arrival_s == pytest.approx(arrival, abs=0.5)
    assert result.confidence >= 0.5
    assert bool(result.warnings) == bool(warning), result
    assert re.search(warning, "; ".join(result.warnings)), result
    if result.peak_s is not None and name != "bubbles destroyed":
        assert result.peak_s == pytest.approx(find_arrival(curve, fps=fps).peak_s, abs=1.5)


NO_ARRIVAL: dict[str, tuple[Change, str]] = {
    "from the arrival on": (lambda c, s: c[s > 0.3], "from the first frames"),
    "from wash-in on": (lambda c, s: c[s > 2], "from the first frames"),
    "from the peak on": (lambda c, s: c[s > 15], ""),
    "until the arrival": (lambda c, s: c[s < 0], ""),
    "nothing but a ramp": (lambda c, _: np.linspace(10, 60, len(c)), "climbs evenly|first frames"),
    "nothing at all": (lambda c, _: np.full(len(c), 30.0), "never rises"),
    "noise": (lambda c, _: np.random.default_rng(0).normal(30, 3, len(c)), ""),
    "a moving probe": (lambda _, s: 60 + 10 * np.sin(2 * np.pi * s / 11), ""),
    "a cut": (lambda _, s: 20 + 50.0 * (s > 1), ""),
    "a second": (lambda c, s: c[s < s[0] + 1], "clip of 1.0 s is too short"),
    "one frame": (lambda c, _: c[:1], "too short"),
}


@pytest.mark.parametrize("name", NO_ARRIVAL)
def test_none_is_invented(example: tuple[Curve, float, float], name: str) -> None:
    curve, fps, arrival = example
    change, warning = NO_ARRIVAL[name]
    result = find_arrival(change(curve, np.arange(len(curve)) / fps - arrival), fps=fps)
    assert (result.arrival_s, result.peak_s) == (None, None)
    assert result.confidence < 0.5
    assert re.fullmatch(f"no arrival of contrast found: .*({warning}).*", result.warnings[-1]), (
        result
    )


def test_the_peak_after_a_given_arrival() -> None:
    curve = np.concatenate([np.full(20, 90.0), np.linspace(5, 60, 40), np.linspace(60, 20, 90)])
    assert given_arrival(curve, fps=10, arrival_s=2.5).peak_s == pytest.approx(6, abs=0.3)
    rising = Arrival(2.0, None, 1.0, ("clip ends before the peak of contrast",))
    assert given_arrival(curve[:58], fps=10, arrival_s=2.0) == rising
    assert given_arrival(curve[:1], fps=10, arrival_s=0.0).peak_s is None


@pytest.mark.parametrize("draw", [draw_arrivals, draw_augmentations])
def test_figures(cohort: Path, tmp_path: Path, draw: Callable[..., Path]) -> None:
    picture = draw(cohort / "demo", cohort / "store", tmp_path / "a" / "b.png")
    with Image.open(picture) as image:
        assert image.size[0] > 1000
    with pytest.raises(DataError, match="cohort_dir must be a folder made by `ceus phantom`"):
        draw(tmp_path, cohort / "store", tmp_path / "x.png")

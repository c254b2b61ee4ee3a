"""`ceus tic` on phantom clips of known kinetics, on real frames, and on what it cannot use."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.ingest.prepare import prepare
from datamodules.perfusion.bolus import PARAMETERS, WASH_OUT, Bolus
from datamodules.perfusion.curves import read_curves
from datamodules.perfusion.tic import RATIO, tic
from datamodules.store.folder import Store
from tests.command import ceus
from tests.datamodules.perfusion.conftest import RANGE_DB, SIDE, Phantom

TIMES = [name for name, unit in PARAMETERS.items() if unit == "s"]
COLUMNS = [f"{name} ({unit})" for name, unit in PARAMETERS.items()]


@pytest.fixture(scope="module")
def out(phantom: Phantom, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tic") / "out"
    shown = ceus("tic", phantom.store, "--out", folder, "--dynamic-range", str(RANGE_DB))
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout == f"table: {folder / 'perfusion.csv'}\n"
    return folder


def of_region(out: Path, region: str) -> pd.DataFrame:
    """Parameters by patient."""
    table = pd.read_csv(out / "perfusion.csv", dtype={"patient_id": str})
    chosen = table[table["region"] == region].set_index("patient_id")
    return chosen[COLUMNS].set_axis(list(PARAMETERS), axis=1)


def known_of(phantom: Phantom, region: str) -> pd.DataFrame:
    return pd.DataFrame(
        {patient: known.boluses[region].parameters() for patient, known in phantom.known.items()}
    ).T


def test_the_phantoms_kinetics_are_found_within_a_tenth(phantom: Phantom, out: Path) -> None:
    ratio = of_region(out, "lesion") / known_of(phantom, "lesion")
    within = (ratio[TIMES] - 1).abs().le(0.1).mean()
    print("lesion, share within 10 %", within.to_dict())
    assert within.ge(0.95).all(), within
    # Intensities share a gain: of the colour map, and of what codecs smooth in the logarithm.
    others = ratio.drop(columns=TIMES)
    gain = others["PE"].median()
    assert 0.7 < gain < 1
    within = (others / gain - 1).abs().le(0.1).mean()
    assert within.ge(0.95).all(), within
    print(f"lesion, after a gain of {gain:.3f}", within.to_dict())


def test_lesion_over_parenchyma_needs_no_gain(phantom: Phantom, out: Path) -> None:
    known = known_of(phantom, "lesion") / known_of(phantom, "parenchyma")
    ratio = of_region(out, RATIO) / known
    assert ratio["AT"].isna().all()
    within = (ratio.drop(columns="AT") - 1).abs().le(0.1).mean()
    print("lesion/parenchyma, share within 10 %", within.to_dict())
    assert within[["PE", "TTP", "RT", "WiAUC", "WoAUC", "WiWoAUC"]].ge(0.95).all(), within


def test_the_motion_is_followed(phantom: Phantom, out: Path) -> None:
    curves = pd.read_csv(out / "curves.csv")
    items = Store(phantom.store).items.set_index("item_id")["patient_id"]
    table = pd.read_csv(out / "perfusion.csv").set_index(["item_id", "region"])
    for item, rows in curves[curves["region"] == "lesion"].groupby("item_id"):
        moved = rows[["moved_y_px", "moved_x_px"]].to_numpy()
        true = phantom.known[items[item]].position
        assert np.sqrt(np.square(true).mean()) > 0.8
        # A pixel is 0.17 mm here, and a speckle two of them.
        assert np.sqrt(np.square(moved - true).mean()) < 0.8
        largest = np.hypot(*moved.T).max()
        assert table.loc[(item, "lesion"), "moved_px"] == pytest.approx(largest, abs=0.01)
        assert table.loc[(item, "lesion"), "frames_lost"] <= 1


def test_a_picture_a_patient_and_every_frame_in_a_table(phantom: Phantom, out: Path) -> None:
    patients = sorted(phantom.known)
    assert sorted(path.stem for path in out.glob("*.png")) == patients
    with Image.open(out / f"{patients[0]}.png") as picture:
        assert picture.size[0] > 1000
    curves = pd.read_csv(out / "curves.csv")
    assert len(curves) == 2 * Store(phantom.store).items["frames"].sum()
    assert not list(out.glob(".*"))
    assert "patient_id" not in curves


def test_other_regions_and_display_values(phantom: Phantom, tmp_path: Path) -> None:
    folder = tmp_path / "box"
    tic(phantom.store, out=folder, box=["40", "40", "50", "40"], progress=False)
    table = pd.read_csv(folder / "perfusion.csv")
    assert set(table["region"]) == {"box"}
    assert set(table["intensity"]) == {"display values"}
    assert (table["pixels"] == 2000).all()
    assert table["PE (I)"].between(5, 255).all()


def clip_of(folder: Path, frames: np.ndarray, fps: float, **more: str) -> Path:
    """A store of one clip, and of what else the row says."""
    folder.mkdir(exist_ok=True)
    np.save(folder / "clip.npy", frames)
    columns = {"patient_id": "=p/1", "label": "0", "modality": "ceus", "path": "clip.npy"}
    columns |= {"fps": f"{fps}", **more}
    lines = (",".join(columns), ",".join(columns.values()))
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    store: Path = prepare(
        folder / "cohort.csv", folder / "store", canvas=64, as_is=True, progress=False, workers=1
    )
    return store


def flat(levels: np.ndarray, *, height: int = 48, width: int = 64) -> np.ndarray:
    """Textured frames (T, H, W, 3) of these mean grey levels."""
    texture = np.random.default_rng(0).normal(1, 0.15, (height, width, 1))
    grey = levels[:, None, None, None] * texture
    return np.clip(np.repeat(grey, 3, axis=-1), 0, 255).astype(np.uint8)


def test_the_whole_field_is_without_bars_and_a_short_clip_is_marked(tmp_path: Path) -> None:
    seconds = np.arange(0, 9, 0.25)
    levels = 20 + 100 * np.clip((seconds - 3) / 3, 0, 1)  # to a plateau
    store = clip_of(tmp_path / "short", flat(levels), 4)
    curve = read_curves(Store(store), Store(store).items["item_id"][0], box=None, range_db=None)
    assert curve.regions["field"].sum() == 48 * 64
    assert curve.intensity["field"] == pytest.approx(levels, abs=3)
    table = pd.read_csv(tic(store, progress=False))
    (row,) = table.to_dict("records")
    assert "too short for wash-out" in row["notes"] or "before the peak" in row["notes"]
    assert all(np.isnan(row[f"{name} ({PARAMETERS[name]})"]) for name in WASH_OUT)
    assert row["patient_id"] == "'=p/1", "a spreadsheet would compute it"
    assert [path.stem for path in (store / "tic").glob("*.png")] == [row["item_id"]]


@pytest.mark.parametrize(
    ("peak", "hidden", "note"),
    [
        (290, 0, "of the region white in a frame: PE, areas and rates too low"),
        (120, 20, "structure lost in many frames: motion not compensated there"),
        (120, 0, None),
    ],
)
def test_what_a_clip_does_not_show_is_noted(
    tmp_path: Path, peak: float, hidden: int, note: str | None
) -> None:
    seconds = np.arange(0, 15, 0.25)
    frames = flat(20 + peak * (Bolus(0, 1, 3, 3, 0.7)(seconds)))
    # As when the probe is lifted: nothing of the tissue is seen.
    frames[60 - hidden :] = np.random.default_rng(0).integers(0, 60, (hidden, 48, 64, 1))
    store = clip_of(tmp_path / "clip", frames, 4)
    (row,) = pd.read_csv(tic(store, progress=False), keep_default_na=False).to_dict("records")
    assert note in row["notes"] if note else not row["notes"]
    assert (int(row["frames_lost"]) >= 15) == (hidden > 0)


@pytest.mark.parametrize("frames", [1, 6])
def test_a_clip_without_time_to_fit_says_so(tmp_path: Path, frames: int) -> None:
    store = clip_of(tmp_path / "brief", flat(np.linspace(20, 90, frames)), 25)
    (row,) = pd.read_csv(tic(store, progress=False)).to_dict("records")
    assert row["notes"].startswith("curve must be of 7 frames and 3 s or more")
    assert np.isnan(row["R2"])


def test_what_cannot_be_used_is_one_error(phantom: Phantom, tmp_path: Path) -> None:
    for options, told in {
        ("--dynamic-range", "4"): "dynamic_range must be 20 to 120 dB, got 4.0",
        ("--box", "1,2,3"): "box must be x,y,w,h in whole pixels inside the stored frames of 128",
        ("--box", "a,b,c,d"): "got 'a,b,c,d'",
        ("--box", f"0,0,{SIDE},{SIDE + 1}"): "got '0,0,128,129'",
        ("--box", "0,0,0,9"): "got '0,0,0,9'",
    }.items():
        shown = ceus("tic", phantom.store, "--out", tmp_path / "none", *options)
        assert (shown.returncode, shown.stdout) == (2, "")
        assert told in shown.stderr
        assert not (tmp_path / "none").exists()
    with pytest.raises(DataError, match="store must be a folder"):
        tic(tmp_path / "nowhere", progress=False)


def test_a_store_of_images_has_no_curve(tmp_path: Path) -> None:
    Image.new("L", (32, 32), 99).save(tmp_path / "a.png")
    (tmp_path / "cohort.csv").write_text("patient_id,label,modality,path\na,0,image,a.png\n")
    store = prepare(
        tmp_path / "cohort.csv", tmp_path / "s", canvas=32, as_is=True, progress=False, workers=1
    )
    with pytest.raises(DataError, match="store must hold clips, got images only"):
        tic(store, progress=False)


REAL = Path(__file__).parents[4] / "shared" / "data"
NUMBERS = (17, 18, 19, 20, 24, 50, 93)


def drawn_curve(path: Path, at: np.ndarray) -> np.ndarray:
    """The blue line of the authors' plot (MATLAB's axes: 0 to 140, 0 to 0.004)."""
    plot = np.asarray(Image.open(path).convert("RGB")).astype(int)
    rows, columns = np.nonzero((plot[..., 2] - plot[..., 0] > 60) & (plot[..., 2] > 120))
    wanted = 114 + at / 140 * (791 - 114)
    heights = [rows[np.abs(columns - column) <= 1].mean() for column in wanted]
    return (583 - np.array(heights)) / (583 - 48) * 0.004


def test_real_frames_rise_and_fall_as_their_authors_drew(tmp_path: Path) -> None:
    real = Path(os.environ.get("CEUS_REAL_DATA", REAL)) / "ceus"
    if not real.is_dir():
        pytest.skip("the thyroid frames are not here: name their folder by CEUS_REAL_DATA")
    frames = [np.asarray(Image.open(real / f"a-{n:03d}.png").convert("RGB")) for n in NUMBERS]
    Image.open(real / "a-mask.png").save(tmp_path / "mask.png")
    store = clip_of(tmp_path, np.stack(frames), 1, mask="mask.png")
    curves = pd.read_csv(tic(store, progress=False).with_name("curves.csv"))
    ours = curves["intensity"].to_numpy()
    theirs = drawn_curve(real / "a-tic.png", np.array(NUMBERS, float))
    assert ours.argmax() == theirs.argmax() == NUMBERS.index(24)
    assert np.all(np.diff(theirs[:5]) > 0)
    assert np.all(np.diff(ours[:5]) > 0)
    assert np.all(np.diff(ours[4:]) < 0)
    print("correlation", np.corrcoef(ours, theirs)[0, 1])
    assert np.corrcoef(ours, theirs)[0, 1] > 0.8

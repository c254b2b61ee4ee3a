"""The phantom: its answer is right, its files are real, its scores show where they should."""

import csv
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import PictureType
from PIL import Image
from scipy.stats import rankdata, spearmanr

from datamodules.errors import DataError
from datamodules.ingest.prepare import prepare
from datamodules.phantom import make as phantom_module
from datamodules.phantom.make import PRESETS, PhantomPreset, make_phantom
from datamodules.phantom.perfusion import Bolus
from datamodules.phantom.truth import draw_patients
from datamodules.store.folder import Store
from docs.pictures import draw_phantom

TINY = PhantomPreset(
    patients=6,
    positives=3,
    image_auc=0.8,
    video_auc=0.9,
    clip_seconds=(2.0, 3.0),
    fps=(5, 8),
    clip_size=(64, 48),
    image_size=(64, 64),
    depth_mm=22.0,
    clip_depth_mm=22.0,
    time_scale=0.06,
    repeat_share=0.5,
)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_truth(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "truth.json").read_text()))


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantom(
        tmp_path_factory.mktemp("phantom") / "tiny", preset=TINY, workers=1, progress=False
    ).parent


def test_masks_are_drawn_and_nothing_else_changes(tiny: Path, tmp_path: Path) -> None:
    masked = make_phantom(
        tmp_path / "masked", preset=TINY, masks=True, workers=1, progress=False
    ).parent
    files = {
        folder: {n: sha for n, sha in hashes(folder).items() if n.startswith(("images", "clips"))}
        for folder in (tiny, masked)
    }
    assert files[masked] == files[tiny]
    rows = read_table(masked / "cohort.csv")
    assert [{**row, "mask": None} for row in rows] == [
        {**row, "mask": None} for row in read_table(tiny / "cohort.csv")
    ]
    named = {name for row in rows for name in row["mask"].split(";") if name}
    assert named == {name for name in hashes(masked) if name.startswith("masks")}
    stores = [
        Store(
            prepare(
                folder / "cohort.csv", tmp_path / f"store-{folder.name}", canvas=64, as_is=True,
                progress=False, workers=1,
            )
        )
        for folder in (tiny, masked)
    ]  # fmt: skip
    assert stores[0].sha == stores[1].sha
    clips = stores[1].items.query("modality == 'ceus'")["item_id"]
    for clip in clips:
        lesion, parenchyma = stores[1].mask(clip)
        assert 0.02 < lesion.mean() < 0.2
        assert parenchyma.any()
        assert not (lesion & parenchyma).any()


def test_table_names_every_file_and_tells_nothing_else(tiny: Path) -> None:
    rows = read_table(tiny / "cohort.csv")
    assert list(rows[0]) == ["patient_id", "label", "modality", "path", "age", "sex", "centre"]
    written = {name for name in hashes(tiny) if name not in ("cohort.csv", "truth.json")}
    assert {row["path"] for row in rows} == written
    assert len(rows) == len(written)
    labels = {row["patient_id"]: row["label"] for row in rows}
    assert sorted(labels.values()) == ["0"] * 3 + ["1"] * 3
    assert {row["modality"] for row in rows} == {"image", "ceus"}
    assert len(rows) > 2 * len(labels), "some patients have a second image or clip"


def test_clips_are_real_files_of_three_formats(tiny: Path) -> None:
    seen = set()
    for patient in read_truth(tiny)["patients"]:
        for clip in patient["clips"]:
            with av.open(str(tiny / clip["path"])) as container:
                stream = container.streams.video[0]
                seen.add((Path(clip["path"]).suffix, stream.codec_context.name))
                assert stream.average_rate == clip["fps"]
                frames = list(container.decode(video=0))
            assert len(frames) == clip["frames"]
            assert (frames[0].width, frames[0].height) == TINY.clip_size
    assert seen == {(".mp4", "h264"), (".avi", "mpeg4"), (".avi", "mjpeg")}


def test_h264_has_b_frames_and_gop_25(tmp_path: Path) -> None:
    preset = replace(TINY, clip_seconds=(8.0, 8.0), fps=(8, 8), repeat_share=0)
    folder = make_phantom(tmp_path / "p", preset=preset, workers=1, progress=False).parent
    with av.open(str(folder / "clips" / "P0003_1.mp4")) as container:
        frames = list(container.decode(video=0))
    assert [i for i, frame in enumerate(frames) if frame.key_frame] == [0, 25, 50]
    assert PictureType.B in {frame.pict_type for frame in frames}


def test_same_bytes_whatever_the_number_of_workers(tiny: Path, tmp_path: Path) -> None:
    again = make_phantom(tmp_path / "again", preset=TINY, workers=2, progress=False).parent
    assert hashes(again) == hashes(tiny)
    other = make_phantom(tmp_path / "other", preset=TINY, seed=1, workers=1, progress=False).parent
    assert not set(hashes(other).values()) & set(hashes(tiny).values())


def test_each_score_shows_in_its_own_modality_only(tmp_path: Path) -> None:
    patient = draw_patients(replace(TINY, repeat_share=0), 0)[2]
    written = []
    for name, z_image, z_video in (("a", 0.0, 0.0), ("b", 1.0, 0.0), ("c", 0.0, 1.0)):
        for sub in ("images", "clips"):
            (tmp_path / name / sub).mkdir(parents=True)
        phantom_module._render_patient(
            replace(patient, z_image=z_image, z_video=z_video),
            preset=TINY,
            seed=0,
            folder=tmp_path / name,
            masks=False,
        )
        image, clip = sorted((tmp_path / name).rglob("P*"), key=lambda path: path.suffix != ".png")
        written.append((image.read_bytes(), clip.read_bytes()))
    plain, other_image, other_video = written
    assert other_image[0] != plain[0]
    assert other_image[1] == plain[1]
    assert other_video[0] == plain[0]
    assert other_video[1] != plain[1]


def test_scores_can_be_read_off_the_files(tmp_path: Path) -> None:
    """A central box at 64 px or less, blind to the anatomy, ranks patients as their scores do."""
    preset = replace(
        TINY,
        patients=40,
        positives=16,
        clip_size=(48, 48),
        clip_seconds=(3.0, 3.0),
        fps=(8, 8),
        repeat_share=0,
    )
    folder = make_phantom(tmp_path / "p", preset=preset, workers=1, progress=False).parent
    box = (slice(19, 33), slice(18, 30))
    darkness, enhancement = [], []
    patients = read_truth(folder)["patients"]
    for patient in patients:
        with Image.open(folder / patient["images"][0]["path"]) as image:
            still = image.resize((48, 48), Image.Resampling.BOX)
        darkness.append(-np.asarray(still, float)[box].mean())
        clip = np.stack(frames_of(folder / patient["clips"][0]["path"])).astype(float)
        enhancement.append(clip[8:, *box].mean() - clip[8:].mean())
    z_image = np.array([patient["z_image"] for patient in patients])
    z_video = np.array([patient["z_video"] for patient in patients])
    assert spearmanr(darkness, z_image).statistic > 0.9
    assert spearmanr(enhancement, z_video).statistic > 0.9


def test_clip_is_dark_then_carotid_then_gland(tmp_path: Path) -> None:
    preset = replace(
        PRESETS["demo"],
        patients=2,
        positives=1,
        clip_size=(64, 64),
        image_size=(64, 64),
        repeat_share=0,
    )
    folder = make_phantom(tmp_path / "p", preset=preset, workers=1, progress=False).parent
    for patient in read_truth(folder)["patients"]:
        clip = patient["clips"][0]
        boluses = {name: Bolus(**values) for name, values in clip["boluses"].items()}
        assert boluses["carotid"].arrival_s < boluses["thyroid"].arrival_s
        level = np.stack(frames_of(folder / clip["path"])).mean(axis=(1, 2))
        arrival, peak = (
            round(clip["fps"] * second)
            for second in (boluses["carotid"].arrival_s, boluses["thyroid"].peak_s)
        )
        assert level[: arrival - 1].max() < 0.35 * level[peak]
        assert level[-1] < level[peak]


def test_bolus_peaks_where_it_says() -> None:
    bolus = Bolus(arrival_s=2.0, peak_s=5.0, peak_db=-10.0, sigma=0.8)
    seconds = np.linspace(0, 40, 40001)
    curve = bolus.intensity(seconds)
    assert seconds[curve.argmax()] == pytest.approx(5.0, abs=1e-3)
    assert curve.max() == pytest.approx(0.1)
    assert (curve[seconds <= 2.0] == 0).all()
    # The same curve in the source's own parameters: AUC, mu, sigma.
    mu = np.log(3.0) + 0.8**2
    elapsed = seconds[2500:] - 2.0
    density = np.exp(-((np.log(elapsed) - mu) ** 2) / (2 * 0.8**2)) / elapsed
    np.testing.assert_allclose(curve[2500:], 0.1 * density / density.max(), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "image", "video", "combined"),
    [("demo", 0.80, 0.90, 0.9374), ("published", 0.624, 0.701, 0.7306)],
)
def test_answer_is_the_formula_and_the_drawn_scores_reach_it(
    name: str, image: float, video: float, combined: float
) -> None:
    preset = PRESETS[name].with_patients(40_000)
    answer = phantom_module.answer(preset, draw_patients(preset, 0))
    assert answer["analytic_auc"] == {
        "image": image,
        "video": video,
        "combined": pytest.approx(combined, abs=5e-4),
    }
    d = answer["separation"]
    both = NormalDist().cdf(np.hypot(d["image"], d["video"]) / np.sqrt(2))
    assert answer["analytic_auc"]["combined"] == pytest.approx(both)
    for modality, value in answer["analytic_auc"].items():
        assert answer["oracle_auc"]["all"][modality] == pytest.approx(value, abs=0.01)


def test_oracle_is_the_rank_statistic_of_the_recorded_scores(tiny: Path) -> None:
    truth = read_truth(tiny)
    label = np.array([patient["label"] for patient in truth["patients"]])
    for modality in ("image", "video"):
        score = [patient[f"z_{modality}"] for patient in truth["patients"]]
        ranks = rankdata(score)[label == 1].sum()
        auc = (ranks - 3 * 4 / 2) / (3 * 3)
        assert truth["oracle_auc"]["all"][modality] == pytest.approx(auc)
    assert truth["oracle_auc"]["all"]["patients"] == 6


def test_published_has_the_reference_hold_out() -> None:
    people = draw_patients(PRESETS["published"], 0)
    counts = {
        split: [sum(p.label == label for p in people if p.split == split) for label in (0, 1)]
        for split in ("train", "test")
    }
    assert counts == {"train": [225, 55], "test": [89, 27]}
    answer = phantom_module.answer(PRESETS["published"], people)
    assert {part: answer["oracle_auc"][part]["patients"] for part in answer["oracle_auc"]} == {
        "all": 396,
        "train": 280,
        "test": 116,
    }


def test_hold_out_becomes_a_column(tmp_path: Path) -> None:
    preset = replace(TINY, test_patients=2, test_positives=1)
    table = make_phantom(tmp_path / "p", preset=preset, workers=1, progress=False)
    splits = {row["patient_id"]: row["split"] for row in read_table(table)}
    assert sorted(splits.values()) == ["test"] * 2 + ["train"] * 4


def test_second_call_is_a_no_op_and_other_settings_are_refused(tiny: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tiny.rglob("*")}
    assert make_phantom(tiny, preset=TINY, progress=False) == tiny / "cohort.csv"
    assert {path: path.stat().st_mtime_ns for path in tiny.rglob("*")} == before
    with pytest.raises(DataError, match=r"same settings, got .* \(seed 0 -> 3\).*another folder"):
        make_phantom(tiny, preset=TINY, seed=3, progress=False)


def test_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="out must be a new folder or a phantom made before"):
        make_phantom(tmp_path, preset=TINY, progress=False)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(phantom_module, "write_still", fail)
    with pytest.raises(OSError, match="disk full"):
        make_phantom(tmp_path / "p", preset=TINY, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"positives": 6}, "positives must be such that both classes occur outside the hold-out"),
        ({"test_patients": 2}, "test_positives must be such that both classes occur in the hold"),
        ({"image_auc": 0.5}, r"image_auc must be between 0.5 and 1, got 0.5"),
        ({"video_auc": 1.0}, "video_auc must be between 0.5 and 1"),
        ({"clip_seconds": (3.0, 2.0)}, "clip_seconds must be positive, shortest first"),
        ({"fps": (0, 8)}, "fps must be at least 1"),
        ({"clip_size": (64, 33)}, "clip_size must be two even numbers"),
        ({"image_size": (16, 64)}, "image_size must be two even numbers"),
        ({"depth_mm": 5.0}, "depth_mm must be 20 to 60"),
        ({"clip_depth_mm": 70.0}, "clip_depth_mm must be 20 to 60"),
        ({"time_scale": 0.0}, "time_scale must be above 0"),
        ({"repeat_share": 2.0}, "repeat_share must be 0 to 1"),
    ],
)
def test_preset_out_of_range(change: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        replace(TINY, **change)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"preset": "huge"}, "preset must be one of demo, published, got 'huge'"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"patients": 1}, "positives must be such .*phantom of 1 patients"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(DataError, match=match):
        make_phantom(tmp_path / "p", progress=False, **arguments)


def test_figure(tiny: Path, tmp_path: Path) -> None:
    picture = draw_phantom(tiny, tmp_path / "figures" / "phantom.png")
    with Image.open(picture) as image:
        assert image.size[0] > 1000
    with pytest.raises(DataError, match="cohort_dir must be a folder made by `ceus phantom`"):
        draw_phantom(tmp_path, tmp_path / "x.png")


def test_import_is_light() -> None:
    heavy = "{'torch', 'lightning', 'pandas', 'matplotlib'}"
    code = f"import sys, datamodules.phantom; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

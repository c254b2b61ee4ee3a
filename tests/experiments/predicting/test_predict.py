"""`ceus predict` on a real tiny sweep with deployed models of two seeds."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import decord
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from datamodules.phantom.make import make_phantom
from evaluation import unseal
from evaluation.records.runs import read_sweep
from evaluation.tables.operating import oof_thresholds
from evaluation.tables.scores import cell_scores
from experiments.errors import ConfigError
from experiments.predicting.deployed import find_deployed
from experiments.predicting.kept_network import _check, _sha, kept_network
from tests import command
from tests.conftest import TINY

OWN = Path(__file__).parents[1] / "own"
CELL, REPORT = "tiny-combined", "evaluation/report.html"


def ceus(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return command.ceus(*arguments, packages=OWN)


def predicted(sweep: Path, to: Path, *arguments: str | Path, cell: str = CELL) -> dict[str, Any]:
    """What `ceus predict` wrote as JSON, patients by their name, and what it printed."""
    done = ceus("predict", sweep, "--cell", cell, "--to", to, "--workers", "1", *arguments)
    assert done.returncode == 0, done.stderr
    content = json.loads((to / "predictions.json").read_text())
    return content | {
        "patients": {row["patient_id"]: row for row in content["patients"]},
        "printed": done.stdout,
    }


def table_of(cohort: Path, name: str, change: Callable[[dict[str, str]], bool | None]) -> Path:
    """A table beside a cohort's, its rows changed; without those for which False is given."""
    with cohort.open(newline="") as file:
        rows = list(csv.DictReader(file))
    path = cohort.with_name(name)
    kept = [row for row in rows if change(row) is not False]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in kept for key in row)))
        writer.writeheader()
        writer.writerows(kept)
    return path


@pytest.fixture(scope="module")
def sweep(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image and combined, folds 0, 1 and all, seeds 0 and 1, evaluated."""
    runs = tmp_path_factory.mktemp("runs")
    result = ceus(
        "sweep", OWN / "deployed_sweep.yaml", f"architecture={OWN / 'tiny.yaml'}",
        f"store={store}", f"runs={runs}", "trainer.max_epochs=2", "wandb=false", "--evaluate",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return runs / "deployed"


@pytest.fixture(scope="module")
def unlabelled(cohort: Path) -> Path:
    return table_of(cohort, "unlabelled.csv", lambda row: row.update(label=""))


@pytest.fixture(scope="module")
def everyone(
    sweep: Path, unlabelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The whole cohort that the sweep was made of, predicted from its raw files."""
    return predicted(sweep, tmp_path_factory.mktemp("everyone"), "--cohort", unlabelled)


@pytest.fixture(scope="module")
def by_torch(
    sweep: Path, everyone: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The sweep as it is where no network could be kept: torch scores."""
    del everyone  # by whom the networks were made
    other = shutil.copytree(sweep, tmp_path_factory.mktemp("by torch") / sweep.name)
    for path in other.glob("*/network.json"):
        content = {"made_from": json.loads(path.read_text())["made_from"], "why_none": "a test"}
        path.write_text(json.dumps({**content, "sha": _sha(content)}))
        path.with_name("network.onnx").unlink()
    return other


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen other patients with labels."""
    out = tmp_path_factory.mktemp("hospital") / "cohort"
    return make_phantom(out, patients=14, seed=8, preset=TINY, workers=1, progress=False)


def scores_in_training(sweep: Path, seed: int) -> pd.Series:
    (path,) = sweep.glob(f"tiny-combined-foldall-seed{seed}-*/predictions.parquet")
    return pd.read_parquet(path).set_index("patient_id")["probability"].sort_index()


@pytest.mark.parametrize("way", ["onnx", "torch"])
def test_probabilities_are_those_of_training_for_every_patient_and_seed(
    sweep: Path,
    everyone: dict[str, Any],
    by_torch: Path,
    unlabelled: Path,
    tmp_path: Path,
    way: str,
) -> None:
    if way == "torch":
        first, everyone = everyone, predicted(by_torch, tmp_path, "--cohort", unlabelled)
        assert everyone["patients"] == approximately(first["patients"])
        assert not list(by_torch.glob("*/network.onnx"))
    rows = everyone["patients"]
    seeds = [scores_in_training(sweep, seed) for seed in (0, 1)]
    assert list(rows) == list(seeds[0].index)
    odds = sum(np.log(p / (1 - p)) for p in seeds) / 2
    (cell,) = (
        entry
        for entry in json.loads((sweep / "evaluation/recalibration.json").read_text())["maps"]
        if entry["modality"] == "combined"
    )
    has_map = cell["slope"] is not None
    assert everyone["recalibration"]["slope"] == cell["slope"]

    def mapped(x: float) -> float:
        return 1 / (1 + np.exp(-(cell["intercept"] + cell["slope"] * x if has_map else x)))

    for patient, row in rows.items():
        assert row["score"] == pytest.approx(odds[patient], abs=1e-5)
        assert row["as_predicted"] == pytest.approx(1 / (1 + np.exp(-odds[patient])), abs=1e-5)
        assert row["probability"] == pytest.approx(mapped(odds[patient]), abs=1e-5)
        own = [mapped(np.log(p[patient] / (1 - p[patient]))) for p in seeds]
        assert list(row["by_seed"].values()) == pytest.approx(own, abs=1e-5)
        assert (row["lowest_seed"], row["highest_seed"]) == pytest.approx(
            (min(own), max(own)), abs=1e-5
        )


def test_decisions_are_cut_where_the_evaluation_freezes_the_threshold(
    sweep: Path, everyone: dict[str, Any]
) -> None:
    read = read_sweep(sweep)
    thresholds = oof_thresholds(cell_scores(read, None), read.analysis)
    for rule, stated in everyone["thresholds"].items():
        cut = thresholds["tiny", "combined", rule]
        assert stated["log_odds"] == pytest.approx(cut)
        assert not stated["frozen"]
        for row in everyone["patients"].values():
            assert row["decisions"][rule] == ("positive" if row["score"] >= cut else "negative")
            if rule == "youden":
                assert row["decision"] == row["decisions"][rule]
    assert len(everyone["thresholds"]) == 2


def test_the_table_says_what_the_json_says(
    sweep: Path, cohort: Path, everyone: dict[str, Any], tmp_path: Path
) -> None:
    own = predicted(
        sweep, tmp_path / "one", "--image", cohort.parent / "images/P0001_1.png",
        "--clip", cohort.parent / "clips/P0001_1.avi", "--patient", "=next", "--rule",
        "sensitivity 0.90",
    )  # fmt: skip
    (row,) = own["patients"].values()
    assert row["probability"] == pytest.approx(everyone["patients"]["P0001"]["probability"])
    assert row["decision"] == everyone["patients"]["P0001"]["decisions"]["sensitivity 0.90"]
    assert "label" not in row
    table = pd.read_csv(tmp_path / "one" / "predictions.csv")
    assert table.loc[0, "patient_id"] == "'=next"  # nothing that a spreadsheet computes
    assert table.loc[0, "probability"] == row["probability"]
    assert "=next" in own["printed"]
    assert max(map(len, own["printed"].splitlines())) <= 200


def checks(row: dict[str, Any]) -> set[str]:
    return {each["check"] for each in row["warnings"]}


def test_patients_of_the_sweep_are_known_by_their_files(
    sweep: Path, everyone: dict[str, Any]
) -> None:
    cohort = pd.read_parquet(sweep / "cohort.parquet")
    held_out = set(cohort.loc[cohort["label"].isna(), "patient_id"])
    for patient, row in everyone["patients"].items():
        first = row["warnings"][0]
        assert first["check"] == "file of the sweep"
        assert ("test set" in first["text"]) == (patient in held_out)
        if patient not in held_out:  # nobody is unlike himself
            assert checks(row) == {"file of the sweep"}


def test_what_is_unlike_training_is_warned_of_with_its_price(
    sweep: Path, cohort: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "cohort"
    shutil.copytree(cohort.parent / "clips", folder / "clips")
    for seed, name in enumerate(("noise", "other")):
        noise = np.random.default_rng(seed).integers(0, 2, (50, 200, 3)) * 255
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "cohort.csv").write_text(
        "patient_id,label,modality,path,fps\n"
        "far,,image,noise.png,\n"
        "far,,ceus,clips/P0001_1.avi,50\n"
        "half,,image,other.png,\n"
    )
    rows = predicted(sweep, tmp_path / "out", "--cohort", folder / "cohort.csv")["patients"]
    assert {"image width", "image height", "image mahalanobis", "image nearest"} <= checks(
        rows["half"]
    )
    assert "no clip" in checks(rows["half"])
    assert {"clip fps", "clip seconds", "image mahalanobis"} <= checks(rows["far"])
    assert "no clip" not in checks(rows["far"])
    alarms = [
        each["false_alarms"]
        for row in rows.values()
        for each in row["warnings"]
        if each["check"] != "file of the sweep"
    ]
    assert all(0 <= rate <= 0.25 for rate in alarms)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv", index_col="patient_id")
    assert "outside of" in table.loc["half", "warnings"]
    assert "% of training patients" in table.loc["half", "warnings"]


def test_an_array_is_a_clip_at_the_rate_that_is_given(
    sweep: Path, cohort: Path, tmp_path: Path
) -> None:
    reader = decord.VideoReader(str(cohort.parent / "clips/P0001_1.avi"))
    np.save(tmp_path / "clip.npy", reader.get_batch(range(len(reader))).asnumpy())
    rows = {
        fps: predicted(sweep, tmp_path / fps, "--clip", tmp_path / "clip.npy", "--fps", fps)
        for fps in (f"{reader.get_avg_fps():g}", "50")
    }
    usual, fast = (content["patients"]["patient"] for content in rows.values())
    assert usual["probability"] is not None
    assert "clip fps" not in checks(usual)
    assert "clip fps" in checks(fast)


def test_labelled_patients_of_elsewhere_are_an_external_test(
    sweep: Path, hospital: Path, tmp_path: Path
) -> None:
    part = table_of(
        hospital,
        "part.csv",
        lambda row: row.update(label="") if row["patient_id"] == "P0014" else None,
    )
    found = predicted(sweep, tmp_path / "out", "--cohort", part)
    assert "1 patients without a label are not in the external test" in found["notes"]
    rows = pd.DataFrame(found["patients"].values()).dropna(subset=["label"])
    assert len(rows) == 13
    folder = tmp_path / "out" / "test-external"
    content = json.loads((folder / "test-external.json").read_text())
    (auc,) = content["aucs"]
    assert auc["auc"] == pytest.approx(roc_auc_score(rows["label"], rows["score"]))
    assert auc["low"] <= auc["auc"] <= auc["high"]
    assert {row["part"] for name in content if name != "words" for row in content[name]} == {
        "test-external"
    }
    for row in content["operating"]:
        cut = found["thresholds"][row["rule"]]["log_odds"]
        called = rows["score"] >= cut
        assert row["threshold"] == pytest.approx(cut)
        assert row["tp"] == int((called & (rows["label"] == 1)).sum())
        assert row["fp"] == int((called & (rows["label"] == 0)).sum())
    by_state = {row["state"]: row for row in content["calibration"]}
    brier = ((rows["as_predicted"] - rows["label"]) ** 2).mean()
    assert by_state["as predicted"]["brier"] == pytest.approx(brier)
    brier = ((rows["probability"] - rows["label"]) ** 2).mean()
    if found["recalibration"]["slope"] is not None:
        assert by_state["recalibrated"]["brier"] == pytest.approx(brier)
    assert len(content["net_benefit"]) == 99
    words = (folder / "test-external.txt").read_text()
    assert words.startswith(f"External test of {CELL}: 13 patients, {int(rows['label'].sum())}")
    (youden,) = (row for row in content["operating"] if row["rule"] == "youden")
    positive = int(rows["label"].sum())
    assert f"{youden['tp']:.0f} of {positive} positive and {youden['tn']:.0f} of" in words
    for told in ("AUC", "threshold frozen for youden", "slope", "Net benefit"):
        assert told in words
        assert told in " ".join(found["printed"].split())
    # Another cohort's figures do not stay beside predictions that they are not of.
    predicted(sweep, tmp_path / "out", "--image", hospital.parent / "images/P0002_1.png")
    assert not list(folder.glob("*"))


def test_a_second_look_at_external_patients_says_so(
    sweep: Path, hospital: Path, tmp_path: Path
) -> None:
    """Whichever model looks, under whatever names: the sweep's own ledger knows the files."""
    own = shutil.copytree(sweep, tmp_path / "own", ignore=shutil.ignore_patterns("ledger.jsonl"))
    first = predicted(own, tmp_path / "first", "--cohort", hospital)
    assert "Look " not in first["printed"]
    renamed = table_of(
        hospital, "renamed.csv", lambda row: row.update(patient_id=f"{row['patient_id']}b")
    )
    image = CELL.replace("combined", "image")
    again = predicted(own, tmp_path / "again", "--cohort", renamed, cell=image)
    told = f"Look 2 at these patients or some of them by models of this sweep (before: {CELL};"
    assert told in " ".join(again["printed"].split())
    assert told in (tmp_path / "again" / "test-external" / "test-external.txt").read_text()
    ledger = own / "ledger.jsonl"
    written = ledger.read_text()
    assert not any(patient in written for patient in first["patients"])
    assert ceus("evaluate", own).returncode == 0
    assert "External tests of models of this sweep" in (own / REPORT).read_text()
    ledger.write_text(written.replace(CELL, image))
    refused = ceus("predict", own, "--cell", CELL, "--cohort", hospital, "--to", tmp_path / "no")
    assert refused.returncode == 2
    assert "line 2 is not as it was written" in refused.stderr
    assert not (tmp_path / "no").exists()
    unlabelled = table_of(hospital, "unknown.csv", lambda row: row.update(label=""))
    predicted(own, tmp_path / "third", "--cohort", unlabelled)


def test_the_sweeps_own_patients_are_no_external_test(
    sweep: Path, cohort: Path, tmp_path: Path
) -> None:
    done = ceus("predict", sweep, "--cell", CELL, "--cohort", cohort, "--to", tmp_path / "out")
    assert done.returncode == 2
    assert "labelled patients must be others than the sweep's" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def opened(sweep: Path, store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sweep whose test set was opened, with a store of its own."""
    place = tmp_path_factory.mktemp("opened")
    own = shutil.copytree(sweep, place / "deployed")
    shutil.copytree(store, place / "store")
    listing = json.loads((own / "sweep.json").read_text())
    listing["registered"]["store"] = str(place / "store")
    (own / "sweep.json").write_text(json.dumps(listing))
    unseal(own, place / "store", reason="test of conformal sets")
    return own


def test_sets_are_calibrated_on_the_opened_test_set_alone(
    sweep: Path, opened: Path, unlabelled: Path, hospital: Path, tmp_path: Path
) -> None:
    new = table_of(hospital, "unknown.csv", lambda row: row.update(label=""))
    sealed = ceus("predict", sweep, "--cell", CELL, "--cohort", new, "--conformal", "0.3")
    assert sealed.returncode == 2
    assert "got a sealed test set" in sealed.stderr
    small = ceus("predict", opened, "--cell", CELL, "--cohort", new, "--conformal", "0.3,0.01")
    assert small.returncode == 2
    assert "conformal sets at 0.01 must be calibrated on 99 or more" in small.stderr
    found = predicted(opened, tmp_path / "out", "--cohort", new, "--conformal", "0.3")
    assert all(each["frozen"] for each in found["thresholds"].values())
    read = read_sweep(opened)
    labels = pd.read_parquet(opened / "test_labels.parquet").set_index("patient_id")["label"]
    (cell,) = (c for c in cell_scores(read, labels.to_dict()) if c.modality == "combined")
    test = cell.test
    for row in found["patients"].values():
        held = []
        for label, name in ((0, "negative"), (1, "positive")):
            sign = 1 if label == 0 else -1
            own = sign * test.loc[test["label"] == label, "score"]
            if (1 + (own >= sign * row["score"]).sum()) / (len(own) + 1) > 0.3:
                held.append(name)
        assert row["set_0.3"] == (", ".join(held) or "none")
    assert {each["label"]: each["needed"] for each in found["sets"]["0.3"]} == {0: 3, 1: 3}


def test_a_moved_store_is_asked_for_until_its_patients_are_noted(
    opened: Path, hospital: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(opened.parent, tmp_path / "moved")
    moved = (own / "deployed", own / "elsewhere")
    (own / "store").rename(moved[1])
    listing = json.loads((moved[0] / "sweep.json").read_text())
    listing["registered"]["store"] = str(own / "store")
    (moved[0] / "sweep.json").write_text(json.dumps(listing))
    for made in moved[0].glob("*/reference.npz"):
        made.unlink()
    image = ("--image", hospital.parent / "images/P0001_1.png")
    lost = ceus("predict", moved[0], "--cell", CELL, *image, "--to", tmp_path / "out")
    assert lost.returncode == 2
    assert "Give it: --store STORE" in lost.stderr
    first = predicted(moved[0], tmp_path / "first", *image, "--store", moved[1])
    shutil.rmtree(moved[1])
    again = predicted(moved[0], tmp_path / "again", *image)
    assert again["patients"] == first["patients"]


def test_the_sweep_holds_how_its_files_were_prepared(sweep: Path, everyone: dict[str, Any]) -> None:
    design = json.loads((sweep / "design.json").read_text())
    assert (design["canvas"], design["as_is"]) == (64, True)
    assert everyone["prepared"] == {"canvas": 64, "as_is": True}


def test_a_sweep_of_before_is_prepared_for_as_its_items_say(
    sweep: Path, everyone: dict[str, Any], cohort: Path, tmp_path: Path
) -> None:
    old = shutil.copytree(sweep, tmp_path / "deployed")
    design = json.loads((old / "design.json").read_text())
    for name in ("as_is", "store_format"):
        del design[name]
    (old / "design.json").write_text(json.dumps(design))
    found = predicted(old, tmp_path / "out", "--clip", cohort.parent / "clips/P0001_1.avi")
    assert found["prepared"] == {"canvas": 64, "as_is": True}
    assert "no image" in checks(found["patients"]["patient"])


def without_deployed(sweep: Path) -> None:
    listing = json.loads((sweep / "sweep.json").read_text())
    listing["runs"] = [run for run in listing["runs"] if run["fold"] != "all"]
    (sweep / "sweep.json").write_text(json.dumps(listing))


def without_maps(sweep: Path) -> None:
    (sweep / "evaluation" / "recalibration.json").unlink()


def with_old_maps(sweep: Path) -> None:
    path = sweep / "evaluation" / "recalibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"predictions_sha": "0"}))


def the_run(sweep: Path, name: str, fold: str = "all") -> Path:
    (path,) = sweep.glob(f"tiny-combined-fold{fold}-seed1-*/{name}")
    return path


def with_a_run_left(sweep: Path) -> None:
    path = the_run(sweep, "status.json", "0")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "interrupted"}))


def with_other_weights(sweep: Path) -> None:
    path = the_run(sweep, "checkpoints/best.ckpt")
    path.write_bytes(path.read_bytes() + b"0")


def without_weights(sweep: Path) -> None:
    the_run(sweep, "checkpoints/best.ckpt").unlink()


def with_edited_config(sweep: Path) -> None:
    path = the_run(sweep, "config.yaml")
    path.write_text(path.read_text().replace("image_size: 32", "image_size: 48"))


def with_changed_predictions(sweep: Path) -> None:
    path = the_run(sweep, "predictions.parquet", "0")
    table = pd.read_parquet(path)
    table.to_parquet(path.with_suffix(".new"), index=False, compression="gzip")
    path.with_suffix(".new").replace(path)


def with_another_format(sweep: Path) -> None:
    path = sweep / "design.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"store_format": 99}))


def without_design(sweep: Path) -> None:
    (sweep / "design.json").unlink()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (without_deployed, "a cell must have runs of fold all to predict with, got folds 0, 1"),
        (without_maps, "Make it: ceus evaluate"),
        (with_old_maps, "got one of other predictions"),
        (with_a_run_left, "seed1-"),
        (with_other_weights, "checkpoint must be the one that the run's predictions were made"),
        (without_weights, "No such file"),
        (with_edited_config, "got an edited one"),
        (with_changed_predictions, "as their run wrote them"),
        (with_another_format, "store of the sweep must be of format"),
        (without_design, "design.json of a sweep must say how its store was prepared"),
    ],
)
def test_what_does_not_belong_together_is_refused(
    sweep: Path, hospital: Path, tmp_path: Path, change: Callable[[Path], None], told: str
) -> None:
    own = shutil.copytree(sweep, tmp_path / "deployed")
    change(own)
    image = hospital.parent / "images/P0001_1.png"
    done = ceus("predict", own, "--cell", CELL, "--image", image, "--to", tmp_path / "out")
    assert done.returncode == 2, done.stdout
    assert told in " ".join(done.stderr.split())
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--cell", "tiny-video"), "cell must be one of tiny-image, tiny-combined"),
        (("--cell", CELL, "--rule", "youdem"), "rule must be one of 'youden', 'sensitivity 0.90'"),
        (("--cell", CELL, "--conformal", "10"), "--conformal must give shares above 0 and below 1"),
        (("--cell", CELL, "--cohort", "x.csv"), "got both"),
        (("--cell", "tiny-image", "--image", "", "--clip", "CLIP"), "modality image, got ceus"),
        (("--cell", CELL, "--image", "none.png"), "line 2: none.png: file must exist, got none"),
        (("--cell", CELL, "--to", "SWEEP"), "--to must be a folder for predictions, got a sweep"),
        (("--cell", CELL, "--fps", "12"), "--fps is of the clip that --clip names, got 12 without"),
        (("--cell", CELL, "--clip", "CLIP", "--fps", "0"), "fps must be 0.1 to 1000 frames per"),
        (("--cell", CELL, "--clip", "CLIP", "--fps", "0"), "and --clip; its column fps is --fps."),
    ],
)
def test_what_cannot_be_predicted_is_told_in_one_error(
    sweep: Path, hospital: Path, tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    given = dict(zip(arguments[::2], arguments[1::2], strict=True))
    given = {"--image": str(hospital.parent / "images/P0001_1.png")} | given
    if given.get("--clip"):
        given["--clip"] = str(hospital.parent / "clips/P0001_1.avi")
    given = {"--to": str(tmp_path / "out")} | given
    if given["--to"] == "SWEEP":
        given["--to"] = str(sweep)
    listed = [text for pair in given.items() if pair[1] for text in pair]
    done = ceus("predict", sweep, *listed)
    assert done.returncode == 2, done.stdout
    assert told in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_sweep_and_nothing_to_predict(tmp_path: Path, sweep: Path) -> None:
    done = ceus("predict", tmp_path, "--cell", CELL, "--image", "a.png")
    assert "folder must hold a sweep" in done.stderr
    done = ceus("predict", sweep, "--cell", CELL)
    assert "got neither" in done.stderr


def test_rows_without_what_the_model_sees_are_told_and_bad_ones_left_out(
    sweep: Path, hospital: Path, tmp_path: Path
) -> None:
    def change(row: dict[str, str]) -> bool:
        row["label"] = ""
        if row["patient_id"] == "P0001":
            return row["modality"] == "ceus"
        if row["patient_id"] == "P0003":
            row["path"] = "images/gone.png"
        return row["patient_id"] in ("P0002", "P0003") and row["modality"] == "image"

    table = table_of(hospital, "some.csv", change)
    strict = ceus("predict", sweep, "--cell", "tiny-image", "--cohort", table)
    assert strict.returncode == 2
    assert "images/gone.png: file must exist" in strict.stderr
    rows = predicted(sweep, tmp_path / "out", "--cohort", table, "--skip-bad", cell="tiny-image")[
        "patients"
    ]
    assert {name: row["decision"] for name, row in rows.items()} == {
        "P0001": "not scored", "P0002": rows["P0002"]["decision"],
    }  # fmt: skip
    assert rows["P0001"]["probability"] is None
    assert checks(rows["P0001"]) == {"not scored"}
    assert rows["P0002"]["probability"] is not None


@pytest.mark.parametrize("name", ["reference.npz", "network.onnx", "network.json"])
def test_a_damaged_reference_is_made_again(
    sweep: Path, everyone: dict[str, Any], unlabelled: Path, tmp_path: Path, name: str
) -> None:
    path = the_run(sweep, "reference.npz")
    damaged = path.with_name(name)
    if name == "network.json":  # whole, but edited
        damaged.write_text(damaged.read_text().replace('"mean": [0.', '"mean": [0.1'))
    else:
        damaged.write_bytes(damaged.read_bytes()[:100])
    one = table_of(unlabelled, "one.csv", lambda row: row["patient_id"] == "P0001")
    again = predicted(sweep, tmp_path / "out", "--cohort", one)
    first, second = (each["patients"]["P0001"] for each in (again, everyone))
    assert first["score"] == pytest.approx(second["score"])
    assert first["warnings"] == second["warnings"]
    with np.load(path, allow_pickle=False) as made:
        assert {"image.centre", "video.centre", "facts"} <= set(made.files)


def test_where_no_network_can_be_written_torch_scores(
    sweep: Path, everyone: dict[str, Any], unlabelled: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(sweep, tmp_path / sweep.name)
    path = the_run(own, "network.onnx")
    path.unlink()
    path.with_name("network.json").unlink()
    path.mkdir()  # in the way of the file
    one = table_of(unlabelled, "one.csv", lambda row: row["patient_id"] == "P0001")
    done = ceus("predict", own, "--cell", CELL, "--cohort", one, "--to", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "its network could not be kept" in done.stderr
    assert not path.with_name("network.json").exists()  # the next prediction tries again
    (row,) = json.loads((tmp_path / "out" / "predictions.json").read_text())["patients"]
    assert row["score"] == pytest.approx(everyone["patients"]["P0001"]["score"], abs=1e-5)


def test_a_network_that_scores_otherwise_is_not_kept(
    sweep: Path, everyone: dict[str, Any], store: Path
) -> None:
    del everyone  # by whom the networks were made
    from experiments.predicting.scoring import load_model

    deployed = find_deployed(sweep, CELL)
    first, second = deployed.runs
    network, model = kept_network(deployed, first), load_model(deployed, second, accelerator="cpu")
    assert network is not None
    with pytest.raises(ConfigError, match="its scores differ by up to"):
        _check(network, model, store)
    made = the_run(sweep, "network.onnx").read_bytes()
    assert str(Path.cwd()).encode() not in made  # where the code lies on this machine
    assert b".py" not in made


NO_TORCH = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "lightning"):
            raise ImportError(f"{name} must not be needed")

sys.meta_path.insert(0, Blocked())
from experiments.cli import main
try:
    main(sys.argv[1:])
finally:
    assert "torch" not in sys.modules and "lightning" not in sys.modules
"""


def export_cell(sweep: Path, cell: str, out: Path) -> Path:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    done = ceus("export", sweep, "--cell", cell, "--out", out)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in out.iterdir()} == {"ensemble.json", "seed0.onnx", "seed1.onnx"}
    return out


@pytest.fixture(scope="module")
def exported(sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_cell(sweep, CELL, tmp_path_factory.mktemp("exported"))


@pytest.mark.parametrize("cell", [CELL, pytest.param("tiny-image", marks=pytest.mark.slow)])
def test_an_exported_model_predicts_the_same_without_torch(
    sweep: Path, exported: Path, by_torch: Path, hospital: Path, tmp_path: Path, cell: str
) -> None:
    lacking = {"P0001": "image", "P0002": "ceus"}
    part = table_of(
        hospital, "lacking.csv", lambda row: lacking.get(row["patient_id"]) != row["modality"]
    )
    expected = predicted(by_torch, tmp_path / "torch", "--cohort", part, cell=cell)
    made = exported if cell == CELL else export_cell(sweep, cell, tmp_path / "exported")
    alone = shutil.copytree(made, tmp_path / "handed on")
    asked = ("predict", "--onnx", alone, "--cohort", part, "--to", tmp_path / "onnx")
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *asked, "--workers", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "does not know distances" in " ".join(done.stdout.split())
    found = json.loads((tmp_path / "onnx" / "predictions.json").read_text())
    assert len(found["patients"]) == 14
    for row in found["patients"]:
        own = expected["patients"][row["patient_id"]]
        own["warnings"] = [w for w in own["warnings"] if "space of features" not in w["text"]]
        assert row == approximately(own)
    left = found["notes"].pop()
    assert left.startswith("an exported model")
    for name in found.keys() - {"patients"}:
        assert found[name] == approximately(expected[name])
    for folder in ("torch", "onnx"):
        assert (tmp_path / folder / "test-external" / "test-external.txt").is_file()
    aucs = [
        json.loads((tmp_path / folder / "test-external/test-external.json").read_text())["aucs"]
        for folder in ("torch", "onnx")
    ]
    assert aucs[1][0] == approximately(aucs[0][0])


def approximately(value: Any) -> Any:
    """Equal to 1e-4, at any depth."""
    if isinstance(value, dict):
        return {key: approximately(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [approximately(inner) for inner in value]
    is_number = isinstance(value, float) and not isinstance(value, bool)
    return pytest.approx(value, abs=1e-4) if is_number else value


def test_no_patient_is_in_what_is_handed_on(sweep: Path, exported: Path) -> None:
    cohort = pd.read_parquet(sweep / "cohort.parquet")
    content = (exported / "ensemble.json").read_text()
    assert not [name for name in set(cohort["patient_id"]) if name in content]
    assert str(sweep) not in content


def with_another_network(folder: Path) -> None:
    (folder / "seed0.onnx").write_bytes((folder / "seed1.onnx").read_bytes())


def without_a_network(folder: Path) -> None:
    (folder / "seed1.onnx").unlink()


def edited(**changed: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "ensemble.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changed))

    return edit


def cut_off(folder: Path) -> None:
    path = folder / "ensemble.json"
    path.write_text(path.read_text()[:300])


def with_sampling(name: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / "ensemble.json"
        known = "datamodules.batches.sampling.UniformFrames"
        path.write_text(path.read_text().replace(known, name))

    return edit


@pytest.mark.parametrize(
    ("change", "arguments", "told"),
    [
        (with_another_network, (), "network must be the one that was described with it"),
        (without_a_network, (), "got No such file"),
        (shutil.rmtree, (), "ensemble.json must be as ceus export wrote it, got No such file"),
        (cut_off, (), "ensemble.json must be as ceus export wrote it, got JSONDecodeError"),
        (edited(thresholds=[]), (), "ensemble.json must be as ceus export wrote it"),
        (edited(store_format=99), (), "got 1 and 99"),
        (edited(format=99), (), "got 99 and"),
        (with_sampling("os.abort"), (), "sampling of frames must be a FrameSampling, got os.abort"),
        (
            with_sampling("lost_package.UniformFrames"),
            (),
            "Install the package of lost_package.Uni",
        ),
        (None, ("--rule", "youdem"), "rule must be one of 'youden'"),
        (None, ("--cell", CELL), "--onnx must be given without --cell"),
        (None, ("--conformal", "0.1", "--store", "x"), "without --store, --conformal"),
        (None, ("--accelerator", "gpu"), "without --accelerator gpu"),
    ],
)
def test_an_exported_folder_that_is_not_whole_is_one_error(
    exported: Path,
    hospital: Path,
    tmp_path: Path,
    change: Callable[[Path], None] | None,
    arguments: tuple[str, ...],
    told: str,
) -> None:
    folder = shutil.copytree(exported, tmp_path / "folder")
    if change:
        change(folder)
    image = hospital.parent / "images/P0001_1.png"
    done = ceus("predict", "--onnx", folder, "--image", image, "--to", tmp_path / "out", *arguments)
    assert done.returncode == 2, done.stdout
    assert told in " ".join(done.stderr.split())
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "out").exists()


def test_a_sweep_and_an_exported_model_are_one_too_many(
    sweep: Path, exported: Path, tmp_path: Path
) -> None:
    both = ceus("predict", sweep, "--onnx", exported, "--image", "a.png")
    assert (both.returncode, "got both" in both.stderr) == (2, True)
    neither = ceus("predict", "--image", "a.png")
    assert (neither.returncode, "got neither" in neither.stderr) == (2, True)


def test_a_cell_to_export_is_told(sweep: Path, tmp_path: Path) -> None:
    none = ceus("export", sweep, "--out", tmp_path)
    assert "cell must be one of tiny-image, tiny-combined, got ''" in none.stderr
    run = ceus("export", the_run(sweep, ""), "--cell", CELL, "--out", tmp_path)
    assert "--cell and --store must be of a sweep" in run.stderr

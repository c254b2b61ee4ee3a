"""Every number of the tables, recomputed from the prediction files by slow and plain means."""

import math

import numpy as np
import pandas as pd
import pytest

from evaluation import EvaluationError, auc_interval, make_tables, read_sweep
from evaluation.tables.scores import DEPLOYED, ENSEMBLE

SHIFT = 0.75


def patient_scores(sweep, architecture, modality, part="oof", folds=None):
    """{patient: (label, fold, mean over seeds of the log-odds)}, one file after the other."""
    found = {}
    for entry in sweep.entries:
        if (entry["architecture"], entry["modality"]) != (architecture, modality):
            continue
        if folds is not None and entry["fold"] not in folds:
            continue
        for row in sweep.get(entry["run_id"]).itertuples():
            if row.part == part:
                key = (row.patient_id, str(entry["fold"]))
                found.setdefault(key, []).append(row.logit - SHIFT)
    return {
        patient: (sweep.labels[patient], fold, sum(scores) / len(scores))
        for (patient, fold), scores in found.items()
    }


def pair_count(rows):
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for label_a, _, a in rows
        for label_b, _, b in rows
        if label_a == 1 and label_b == 0
    ]
    return sum(wins) / len(wins)


def best_cut(rows):
    """Halfway below the lowest score whose cut (score >= it) has the greatest Youden index."""

    def gain(cut):
        sensitivity = np.mean([score >= cut for label, _, score in rows if label == 1])
        return sensitivity - np.mean([score >= cut for label, _, score in rows if label == 0])

    scores = sorted({score for _, _, score in rows})
    best = max(scores, key=lambda cut: round(gain(cut), 12))
    lower = scores.index(best) - 1
    return (best + scores[lower]) / 2 if lower >= 0 else -math.inf


def places(rows):
    """Scores of one fold as shares of its patients below, plus half of those level with it."""
    scores = [score for _, _, score in rows]
    return [
        (label, fold, (sum(s < x for s in scores) + sum(s == x for s in scores) / 2) / len(scores))
        for label, fold, x in rows
    ]


@pytest.fixture
def seeded(sweep_maker, tmp_path):
    """Three folds and two seeds."""
    return sweep_maker(tmp_path / "seeded", folds=(0, 1, 2), seeds=(0, 1)).write()


def test_every_number_of_cells_and_folds(seeded):
    tables = make_tables(read_sweep(seeded.path))
    assert len(tables.cells) == 4
    for cell in tables.cells.to_dict("records"):
        patients = patient_scores(seeded, cell["architecture"], cell["modality"])
        rows = list(patients.values())
        assert cell["complete"]
        assert (cell["runs_done"], cell["runs_expected"]) == (6, 6)
        assert (cell["folds_done"], cell["folds_expected"]) == (3, 3)
        assert cell["patients"] == len(rows) == 40
        assert cell["events"] == sum(label for label, _, _ in rows)
        of_fold = {f: [row for row in rows if row[1] == f] for f in "012"}
        aucs = [pair_count(of_fold[f]) for f in "012"]
        assert cell["fold_mean_auc"] == pytest.approx(sum(aucs) / 3, abs=1e-12)
        assert cell["fold_sd_auc"] == pytest.approx(np.std(aucs, ddof=1), abs=1e-12)
        assert cell["pooled_auc"] == pytest.approx(pair_count(rows), abs=1e-12)
        interval = auc_interval([row[0] for row in rows], [row[2] for row in rows])
        assert cell["pooled_variance"] == pytest.approx(interval.variance, abs=1e-14)
        assert (cell["pooled_low"], cell["pooled_high"]) == pytest.approx(
            (interval.low, interval.high), abs=1e-12
        )
        counts = {"tp": 0, "fn": 0, "tn": 0, "fp": 0}
        where = (tables.folds["architecture"] == cell["architecture"]) & (
            tables.folds["modality"] == cell["modality"]
        )
        for fold in tables.folds[where].to_dict("records"):
            mine = of_fold[fold["fold"]]
            others = [places(of_fold[f]) for f in "012" if f != fold["fold"]]
            cut = best_cut([row for other in others for row in other])
            called = [(label, place >= cut) for label, _, place in places(mine)]
            assert fold["tp"] == sum(label and call for label, call in called)
            assert fold["fp"] == sum(not label and call for label, call in called)
            assert fold["patients"] == len(mine)
            assert fold["auc"] == pytest.approx(pair_count(mine), abs=1e-12)
            for name in counts:
                counts[name] += fold[name]
        assert counts == {name: cell[name] for name in counts}
        assert cell["sensitivity"] == counts["tp"] / (counts["tp"] + counts["fn"])
        assert cell["specificity"] == counts["tn"] / (counts["tn"] + counts["fp"])
        assert cell["accuracy"] == (counts["tp"] + counts["tn"]) / 40
        assert cell["reason"] == ""


def test_patients_and_roc_give_the_cells_again(seeded):
    tables = make_tables(read_sweep(seeded.path))
    for cell in tables.cells.to_dict("records"):
        names = {name: cell[name] for name in ("architecture", "modality")}
        of = names | {"part": "oof"}
        patients, roc = (
            table[(table[list(of)] == list(of.values())).all(axis=1)]
            for table in (tables.patients, tables.roc)
        )
        expected = patient_scores(seeded, **names)
        assert set(patients["patient_id"]) == set(expected)
        for row in patients.itertuples():
            assert row.seeds == 2
            assert (row.label, row.fold) == expected[row.patient_id][:2]
            assert row.score == pytest.approx(expected[row.patient_id][2], abs=1e-12)
            assert row.probability == pytest.approx(1 / (1 + math.exp(-row.score)), abs=1e-12)
            assert row.call == (row.score >= row.threshold)
        assert (patients["call"] == patients["label"]).mean() == pytest.approx(cell["accuracy"])
        area = np.trapezoid(roc["sensitivity"][::-1], 1 - roc["specificity"][::-1])
        assert area == pytest.approx(cell["pooled_auc"], abs=1e-12)


def test_modality_means_are_over_architectures(seeded):
    tables = make_tables(read_sweep(seeded.path))
    assert list(tables.modalities["modality"]) == ["image", "video"]
    for mean in tables.modalities.to_dict("records"):
        mine = tables.cells[tables.cells["modality"] == mean["modality"]]
        assert mean["architectures"] == mean["architectures_expected"] == 2
        for name in ("fold_mean_auc", "pooled_auc", "sensitivity", "specificity", "accuracy"):
            assert mean[name] == pytest.approx(sum(mine[name]) / 2)


def test_the_loss_weight_of_a_fold_does_not_shift_its_patients(sweep):
    before = make_tables(read_sweep(sweep.path)).cells
    for run_id in sweep.run_ids(fold=1):  # trained with another weight: logits shift, p does not
        sweep.change(run_id, lambda table: table.assign(logit=table["logit"] + 5))
    after = make_tables(read_sweep(sweep.path)).cells
    pd.testing.assert_frame_equal(before, after, rtol=1e-12)


def test_an_incomplete_cell_is_marked_and_left_out_of_the_means(seeded):
    lost = seeded.run_ids(architecture="alpha", modality="image", fold=2)
    for run_id in lost:
        seeded.status(run_id, "failed", "out of memory")
    half = seeded.run_ids(architecture="beta", modality="video", fold=0)[0]
    seeded.status(half, "running")
    tables = make_tables(read_sweep(seeded.path))
    cells = tables.cells.set_index(["architecture", "modality"])
    image, video = cells.loc[("alpha", "image")], cells.loc[("beta", "video")]
    assert not image["complete"]
    assert (image["runs_done"], image["folds_done"], image["patients"]) == (4, 2, 28)
    rows = list(patient_scores(seeded, "alpha", "image", folds=(0, 1)).values())
    assert image["pooled_auc"] == pytest.approx(pair_count(rows), abs=1e-12)
    assert not video["complete"]
    assert (video["runs_done"], video["folds_done"], video["patients"]) == (5, 2, 40)
    folds = tables.folds.set_index(["architecture", "modality", "fold"])
    empty = folds.loc[("alpha", "image", "2")]
    assert (empty["patients"], empty["runs_done"], empty["reason"]) == (0, 0, "no patients")
    assert math.isnan(empty["auc"])
    means = tables.modalities.set_index("modality")
    assert means.loc["image", "architectures"] == 1
    assert means.loc["image", "pooled_auc"] == cells.loc[("beta", "image")]["pooled_auc"]


def test_a_cell_without_a_done_run_stays_in_the_table(sweep):
    for run_id in sweep.run_ids(architecture="alpha", modality="image"):
        sweep.status(run_id, "failed", "no device")
    cell = make_tables(read_sweep(sweep.path)).cells.iloc[0]
    assert (cell["patients"], cell["runs_done"], cell["reason"]) == (0, 0, "no patients")
    assert math.isnan(cell["fold_mean_auc"])
    assert pd.isna(cell["tp"])


def test_one_fold_alone_has_no_spread_and_no_threshold(sweep):
    sweep.entries[:] = [entry for entry in sweep.entries if entry["fold"] == 0]
    sweep.list_runs()
    cell = make_tables(read_sweep(sweep.path)).cells.iloc[0]
    assert math.isfinite(cell["fold_mean_auc"])
    assert math.isnan(cell["fold_sd_auc"])
    assert math.isnan(cell["sensitivity"])
    assert cell["reason"] == "fold 0: no threshold from the other folds: no patients"


def test_a_fold_of_one_class_makes_the_fold_mean_undefined_and_says_so(sweep):
    for run_id in sweep.run_ids():
        sweep.change(
            run_id,
            lambda t: t.assign(label=t["label"].mask(t["patient_id"].map(sweep.home) == 1, 0.0)),
        )
    cell = make_tables(read_sweep(sweep.path)).cells.iloc[0]
    assert math.isnan(cell["fold_mean_auc"])
    assert math.isfinite(cell["pooled_auc"])
    assert "fold 1: no positive patient" in cell["reason"]
    assert "fold 0: no threshold from the other folds" in cell["reason"]


def test_sealed_test_rows_have_counts_only(sweep):
    test = make_tables(read_sweep(sweep.path)).test
    assert set(test["source"]) == {ENSEMBLE}
    assert set(test["reason"]) == {"sealed"}
    assert set(test["patients"]) == {10}
    figures = ["events", "auc", "low", "high", "threshold", "tp", "sensitivity", "accuracy"]
    assert test[figures].isna().all(axis=None)


def test_test_auc_of_the_ensemble_has_no_threshold(seeded):
    labels = {name: seeded.labels[name] for name in seeded.hidden}
    thresholds = {("alpha", "image", "youden"): 0.0}
    test = make_tables(read_sweep(seeded.path), test_labels=labels, test_thresholds=thresholds).test
    row = test.iloc[0]
    scores = {}
    for entry in seeded.entries[:6]:
        for line in seeded.get(entry["run_id"]).itertuples():
            if line.part == "test":
                scores.setdefault(line.patient_id, []).append(line.logit - SHIFT)
    rows = [(labels[name], "", sum(values) / 6) for name, values in scores.items()]
    assert row["source"] == ENSEMBLE
    assert row["auc"] == pytest.approx(pair_count(rows), abs=1e-12)
    assert row["events"] == sum(labels.values())
    assert math.isnan(row["threshold"])
    assert pd.isna(row["tp"])


def test_the_deployed_model_is_kept_apart_and_cut_at_the_frozen_threshold(sweep_maker, tmp_path):
    both = sweep_maker(tmp_path / "deployed", folds=(0, 1, "all"), seeds=(0, 1)).write()
    labels = {name: both.labels[name] for name in both.hidden}
    thresholds = {("alpha", "image", "youden"): 0.25}
    tables = make_tables(read_sweep(both.path), test_labels=labels, test_thresholds=thresholds)
    cell, row = tables.cells.iloc[0], tables.test.iloc[0]
    assert (cell["folds_expected"], cell["runs_expected"]) == (2, 4)
    assert set(tables.folds["fold"]) == {"0", "1"}
    rows = list(patient_scores(both, "alpha", "image", "test", folds=("all",)).values())
    assert (row["source"], row["runs_expected"]) == (DEPLOYED, 2)
    assert row["auc"] == pytest.approx(pair_count(rows), abs=1e-12)
    assert row["tp"] == sum(label == 1 and score >= 0.25 for label, _, score in rows)
    assert row["fp"] == sum(label == 0 and score >= 0.25 for label, _, score in rows)
    other = tables.test.iloc[1]  # no threshold was frozen for this cell
    assert math.isfinite(other["auc"])
    assert pd.isna(other["tp"])


def test_a_hold_out_patient_without_a_label_is_refused(sweep):
    with pytest.raises(EvaluationError, match="labels must be 0 or 1, got nan"):
        make_tables(read_sweep(sweep.path), test_labels={"p040": 1})

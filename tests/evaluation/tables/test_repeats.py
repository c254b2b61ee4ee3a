"""Tables of a sweep whose patients were dealt into folds several times, by plain means."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from evaluation import EvaluationError, cv_auc, evaluate, make_tables, read_sweep
from evaluation.records.schema import fold_name, repeat_of

PRIMARY = {"modalities": ["video", "image"], "architecture": "mean", "part": "oof"}


@pytest.fixture
def make(sweep_maker, tmp_path):
    """A sweep without ties, which sums of seeds would break or make by their last digit."""

    def untied(table):
        logit = table["logit"] + np.random.default_rng(len(table)).normal(0, 1e-4, len(table))
        return table.assign(logit=logit, probability=1 / (1 + np.exp(0.75 - logit)))

    def made(repeats):
        sweep = sweep_maker(
            tmp_path / str(repeats) / "trial",
            folds=(0, 1, "all"),
            seeds=(0, 1),
            patients=60,
            repeats=repeats,
            analysis={"primary": PRIMARY},
        ).write()
        for run_id in sweep.run_ids():
            sweep.change(run_id, untied)
        return sweep

    return made


@pytest.fixture
def repeated(make):
    return make(3)


def fold_aucs(sweep, **cell):
    """{fold: AUC of the patients' mean score over seeds}, from the prediction files."""
    tables = pd.concat([sweep.get(run_id) for run_id in sweep.run_ids(**cell)])
    oof = tables[tables["part"] == "oof"]
    means = oof.groupby(["fold", "patient_id"])[["label", "logit"]].mean().reset_index("fold")
    return {
        fold: roc_auc_score(rows["label"], rows["logit"]) for fold, rows in means.groupby("fold")
    }


def test_names_of_folds_tell_their_partition():
    assert [fold_name(3), fold_name(3, 2), fold_name("all", 2)] == ["3", "3r2", "all"]
    assert [repeat_of(name) for name in ("3", "12r10", "all")] == [0, 10, 0]


def test_the_headline_is_the_mean_over_partitions_and_the_rest_of_the_first(repeated, make):
    tables = make_tables(read_sweep(repeated.path))
    names = ["0", "1", "0r1", "1r1", "0r2", "1r2"]
    for cell in tables.cells.to_dict("records"):
        name = {key: cell[key] for key in ("architecture", "modality")}
        aucs = fold_aucs(repeated, **name)
        assert set(aucs) == set(names)
        assert cell["fold_mean_auc"] == pytest.approx(np.mean(list(aucs.values())), abs=1e-12)
        assert cell["fold_mean_low"] < cell["fold_mean_auc"] < cell["fold_mean_high"]
        assert (cell["repeats"], cell["folds_done"], cell["folds_expected"]) == (3, 6, 6)
        assert cell["complete"]
        assert cell["patients"] == 60
        assert cell["fold_sd_auc"] == pytest.approx(np.std(list(aucs.values()), ddof=1))
        folds = tables.folds[(tables.folds[list(name)] == pd.Series(name)).all(axis=1)]
        assert folds["fold"].tolist() == names
        assert folds["repeat"].tolist() == [0, 0, 1, 1, 2, 2]
        assert folds["auc"].tolist() == pytest.approx([aucs[fold] for fold in names])
        assert folds.groupby("repeat")["patients"].sum().tolist() == [60, 60, 60]
    (headline,) = {
        tuple(row)
        for row in tables.aucs.loc[tables.aucs["standing"] == "headline", ["method"]].to_numpy()
    }
    assert headline == ("bootstrap over patients, seeds and partitions",)
    # What has one score a patient is what the first partition alone gives.
    first = make_tables(read_sweep(make(1).path))
    for name in ("patients", "operating", "roc", "calibration", "net_benefit", "scales", "test"):
        pd.testing.assert_frame_equal(getattr(tables, name), getattr(first, name))
    own = first.cells.set_index(["architecture", "modality"])
    table = first.patients[first.patients["part"] == "oof"]
    for key, rows in table.groupby(["architecture", "modality"]):
        expected = cv_auc(rows["label"], rows["score"], rows["fold"])
        assert own.loc[key, "fold_mean_low"] == pytest.approx(expected.low, abs=1e-12)


def test_contrasts_are_means_over_partitions(repeated):
    table = make_tables(read_sweep(repeated.path)).comparisons
    oof = table[table["part"] == "oof"]
    assert (oof["reason"] == "").all()
    assert oof["p_value"].notna().all()
    (primary,) = oof[oof["family"] == "primary"].to_dict("records")
    for side, modality in (("a", "video"), ("b", "image")):
        aucs = [
            np.mean(list(fold_aucs(repeated, architecture=name, modality=modality).values()))
            for name in ("alpha", "beta")
        ]
        assert primary[f"auc_{side}"] == pytest.approx(np.mean(aucs), abs=1e-12)
    assert primary["method"] == "bootstrap over patients, seeds and partitions"
    assert primary["low"] < primary["difference"] < primary["high"]


def test_what_is_not_done_makes_a_cell_incomplete_and_its_contrasts_untested(repeated):
    gone = repeated.run_ids(architecture="beta", modality="video", fold="1r2")
    for run_id in gone:
        repeated.status(run_id, "failed", "lost")
    tables = make_tables(read_sweep(repeated.path))
    cells = tables.cells.set_index(["architecture", "modality"])
    assert not cells.loc[("beta", "video"), "complete"]
    assert cells["complete"].sum() == 3
    assert not np.isnan(cells.loc[("beta", "video"), "fold_mean_auc"])
    primary = tables.comparisons[tables.comparisons["family"] == "primary"].iloc[0]
    assert primary["reason"] == "not tested before all runs are done: beta video 10 of 12"


def test_partitions_of_one_cell_only_are_not_compared(repeated):
    for run_id in repeated.run_ids(architecture="beta", modality="video"):
        if "r2-" in run_id:
            repeated.entries = [e for e in repeated.entries if e["run_id"] != run_id]
    repeated.list_runs()
    table = make_tables(read_sweep(repeated.path)).comparisons
    primary = table[(table["family"] == "primary") & (table["part"] == "oof")].iloc[0]
    assert primary["reason"] == "not tested, for the partitions differ: 0, 1; 0, 1, 2"


def test_seeds_may_differ_between_partitions_but_not_between_sides(repeated):
    kept = [e for e in repeated.entries if "r" not in str(e["fold"]) or e["seed"] == 0]
    repeated.entries = kept
    repeated.list_runs()
    table = make_tables(read_sweep(repeated.path)).comparisons
    assert (table[table["part"] == "oof"]["reason"] == "").all()
    lost = next(e for e in kept if e["fold"] == "0r1" and e["modality"] == "image")
    repeated.entries = [e for e in kept if e is not lost]
    repeated.list_runs()
    table = make_tables(read_sweep(repeated.path)).comparisons
    primary = table[(table["family"] == "primary") & (table["part"] == "oof")].iloc[0]
    assert not primary["reason"]  # that fold is not listed for this cell: nothing is pending
    assert primary["patients_a"] == 60


def test_a_first_partition_that_is_not_done_leaves_the_others(repeated):
    for run_id in repeated.run_ids():
        if "r" not in run_id.split("-fold")[1].split("-seed")[0] and "all" not in run_id:
            repeated.status(run_id, "failed", "lost")
    tables = make_tables(read_sweep(repeated.path))
    assert tables.cells["fold_mean_auc"].notna().all()
    assert (tables.cells["patients"] == 0).all()
    assert not tables.cells["complete"].any()


def test_a_patient_twice_in_a_partition_is_refused(repeated):
    def stolen(table):
        mine = table.index[table["part"] == "train"][0]
        table.loc[mine, "part"] = "oof"
        return table

    for run_id in repeated.run_ids(fold="0r1"):
        repeated.change(run_id, stolen)
    with pytest.raises(EvaluationError, match=r"out-of-fold in one fold, got 2"):
        read_sweep(repeated.path)


def test_report_and_texts_say_that_partitions_are_in(repeated):
    evaluation = evaluate(repeated.path)
    page = evaluation.report.read_text(encoding="utf-8")
    assert "The patients were dealt into folds 3 times." in page
    assert "out-of-fold AUC, fold mean (bootstrap 95 % CI)" in page
    assert "LeDell 95 % CI" not in page
    assert "another partition would change is not in them" not in page
    assert "Mean absolute prediction error (MAPE)" in page
    assert (evaluation.folder / "figures" / "instability.svg").is_file()
    checklists = "".join(p.read_text() for p in evaluation.folder.glob("*tripod*.csv"))
    assert "Cross-validation over 2 folds, 3 times" in page + checklists

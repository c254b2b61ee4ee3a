"""A sweep folder is read as listed, and refused with the reason when its tables do not agree."""

import json

import numpy as np
import pandas as pd
import pytest

from evaluation import EvaluationError, read_sweep

FIRST = "alpha-image-fold0-seed0-01234567"


def set_where(column, value, condition):
    """An edit of a prediction table: `column` becomes `value` in the rows of `condition`."""

    def edit(table):
        rows = condition(table)
        return table.assign(**{column: table[column].where(~rows, value)})

    return edit


def everywhere(table):
    return pd.Series(True, index=table.index)


def part(name):
    return lambda table: table["part"] == name


def first_of(name):
    return lambda table: table.index == table.index[table["part"] == name][0]


def test_reads_listed_runs_only(sweep):
    unlisted = sweep.path / "gamma-image-fold0-seed0-01234567"
    unlisted.mkdir()
    (unlisted / "predictions.parquet").write_text("not a table")
    (unlisted / "status.json").write_text(json.dumps({"state": "done"}))
    read = read_sweep(sweep.path)
    assert [run.run_id for run in read.runs] == sweep.run_ids()
    assert set(read.predictions["run_id"]) == set(sweep.run_ids())
    assert read.name == "trial"
    assert read.shas == {"split_sha": "a" * 64, "store_sha": "b" * 64}
    assert read.environments[FIRST] == {"python": "3.11.0", "packages.torch": "2.6.0"}


def test_states_are_read_and_tables_of_unfinished_runs_are_not(sweep):
    failed, running, pending = sweep.run_ids()[:3]
    sweep.status(failed, "failed", "ran out of memory")
    sweep.status(running, "running")
    (sweep.path / pending / "status.json").unlink()
    read = read_sweep(sweep.path)
    assert [run.state for run in read.runs[:4]] == ["failed", "running", "pending", "done"]
    assert [run.reason for run in read.runs[:2]] == ["ran out of memory", ""]
    assert not {failed, running, pending} & set(read.predictions["run_id"])


def test_score_keeps_the_digits_that_a_probability_near_one_loses(sweep):
    def stretched(table):
        logit = table["logit"] * 40
        return table.assign(logit=logit, probability=1 / (1 + np.exp(-(logit - 2.0))))

    sweep.change(FIRST, stretched)
    rows = read_sweep(sweep.path).predictions.query("run_id == @FIRST")
    assert (rows["probability"] == 1).sum() > 1
    np.testing.assert_allclose(rows["score"], sweep.get(FIRST)["logit"] - 2.0, atol=1e-9)


def test_a_run_that_is_0_or_1_throughout_is_read(sweep):
    def saturated(table):
        logit = np.where(table["logit"] > 0, 2000.0, -2000.0)
        return table.assign(logit=logit, probability=(logit > 0).astype(float))

    sweep.change(FIRST, saturated)
    rows = read_sweep(sweep.path).predictions.query("run_id == @FIRST")
    assert set(rows["score"]) == {2000.0, -2000.0}


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.drop(columns=["logit", "seed"]), "all columns, got none named seed, logit"),
        (set_where("run_id", "x", first_of("oof")), "run_id must be 'alpha-image-fold0.*got {'x'}"),
        (set_where("modality", "video", first_of("oof")), "modality must be 'image' as listed"),
        (set_where("seed", 7, everywhere), "seed must be 0 as listed, got .7"),
        (set_where("fold", "1", everywhere), "fold must be '0' as listed, got {'1'}"),
        (set_where("part", "holdout", part("test")), "part must be one of .*got {'holdout'}"),
        (set_where("part", "train", part("oof")), "out-of-fold rows, unless its fold is all, got"),
        (lambda t: pd.concat([t, t.iloc[[3]]]), "in one part of a run, once, got 1 rows too many"),
        (set_where("patient_id", "p030", first_of("oof")), "in one part of a run, once"),
        (set_where("logit", np.nan, first_of("oof")), "logit must be finite"),
        (set_where("logit", np.inf, first_of("train")), "logit must be finite"),
        (set_where("probability", 1.5, first_of("oof")), r"probability must be in \[0, 1\]"),
        (set_where("probability", 0.01, first_of("oof")), r"must be sigmoid\(logit - c\)"),
        (set_where("label", 2.0, first_of("train")), "label must be 0 or 1"),
        (set_where("label", np.nan, first_of("oof")), "label must be 0 or 1"),
        (set_where("label", 1.0, first_of("test")), r"test rows must be empty \(sealed\)"),
    ],
)
def test_a_table_that_breaks_the_schema_is_refused_with_its_file(sweep, edit, message):
    sweep.change(FIRST, edit)
    with pytest.raises(EvaluationError, match=message) as caught:
        read_sweep(sweep.path)
    assert f"{FIRST}/predictions.parquet" in str(caught.value)


def test_a_run_of_all_has_no_out_of_fold_rows(sweep):
    sweep.entries[0]["fold"] = "all"
    sweep.list_runs()
    sweep.change(FIRST, set_where("fold", "all", everywhere))
    with pytest.raises(EvaluationError, match="unless its fold is all, got fold all"):
        read_sweep(sweep.path)


def test_done_without_predictions_or_with_a_broken_file_is_refused(sweep):
    path = sweep.path / FIRST / "predictions.parquet"
    path.write_bytes(b"PAR1 cut off")
    with pytest.raises(EvaluationError, match="predictions must be a Parquet file"):
        read_sweep(sweep.path)
    path.unlink()
    with pytest.raises(EvaluationError, match="a run that is done must have its predictions"):
        read_sweep(sweep.path)


@pytest.mark.parametrize("name", ["split_sha", "store_sha"])
def test_runs_on_another_split_or_store_are_named(sweep, name):
    sweep.change(FIRST, set_where(name, "e" * 64, everywhere))
    with pytest.raises(EvaluationError, match=f"{name} must be the same.*got 2.*{FIRST}"):
        read_sweep(sweep.path)


def test_labels_that_differ_between_runs_are_named(sweep):
    sweep.change(FIRST, set_where("label", 0.0, lambda t: t["patient_id"] == "p003"))
    with pytest.raises(
        EvaluationError, match=f"label of a patient must be the same.*p003.*{FIRST}"
    ):
        read_sweep(sweep.path)


def test_a_hold_out_patient_that_another_run_trains_on_is_named(sweep):
    def leak(table):
        rows = table["patient_id"] == sweep.hidden[0]
        return table.assign(
            part=table["part"].mask(rows, "train"), label=table["label"].mask(rows, 1.0)
        )

    sweep.change(FIRST, leak)
    with pytest.raises(EvaluationError, match=f"got 1 that other runs.*{sweep.hidden[0]}"):
        read_sweep(sweep.path)


def test_runs_that_scored_other_patients_are_named(sweep):
    def without(name):
        return lambda t: t[~((t["part"] == name) & (t["part"] != t["part"].shift()))]

    other = "beta-image-fold0-seed0-01234567"
    sweep.change(other, without("oof"))
    with pytest.raises(EvaluationError, match=f"oof patients of image fold 0 .*{FIRST}.*{other}"):
        read_sweep(sweep.path)
    sweep.put(other, sweep.table(next(e for e in sweep.entries if e["run_id"] == other)))
    sweep.change(other, without("test"))
    with pytest.raises(EvaluationError, match=f"test patients of image must be .*in {other}"):
        read_sweep(sweep.path)


def test_overlapping_folds_are_refused(sweep):
    moved = next(name for name, fold in sweep.home.items() if fold == 1)
    for run_id in sweep.run_ids(fold=0):
        sweep.change(run_id, set_where("part", "oof", lambda t: t["patient_id"] == moved))
    with pytest.raises(EvaluationError, match=rf"out-of-fold in one fold, got 2 \({moved}\)"):
        read_sweep(sweep.path)


def test_the_same_cell_fold_and_seed_twice_is_refused(sweep):
    sweep.entries.append({**sweep.entries[0], "run_id": "alpha-image-fold0-seed0-89abcdef"})
    sweep.list_runs()
    with pytest.raises(EvaluationError, match=f"list each .* once, got {FIRST} and .*89abcdef"):
        read_sweep(sweep.path)


def test_nothing_done_is_refused_with_the_states(sweep):
    for run_id in sweep.run_ids():
        sweep.status(run_id, "failed", "no device")
    with pytest.raises(
        EvaluationError, match=f"at least one run must be done, got 0 of 8.*{FIRST}"
    ):
        read_sweep(sweep.path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("sweep.json", None, r"folder must hold a sweep \(sweep.json\), got none"),
        ("sweep.json", "{", r"sweep.json must be the list that .* writes, got JSONDecodeError"),
        ("sweep.json", "[]", "sweep.json must be the list .* got TypeError"),
        ("sweep.json", '{"runs": []}', "sweep.json must list runs, got none"),
        (
            "sweep.json",
            '{"runs": [{"run_id": "x"}]}',
            "sweep.json must be the list .* KeyError: 'architecture'",
        ),
        (f"{FIRST}/status.json", '{"state": "lost"}', "state must be one of done, .* got 'lost'"),
        (f"{FIRST}/status.json", "", "status.json must be JSON"),
    ],
)
def test_a_broken_listing_or_status_is_refused(sweep, file, content, message):
    path = sweep.path / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(EvaluationError, match=message):
        read_sweep(sweep.path)

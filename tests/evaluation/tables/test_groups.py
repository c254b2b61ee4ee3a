"""How predictions move from model to model, and figures by group of patients."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from evaluation import EvaluationError, auc_interval, calibration, compute, make_tables, read_sweep
from evaluation.figures import instability as drawing
from evaluation.records.analysis import Analysis
from evaluation.report.patient_sections import instability, subgroups

SHIFT = 0.75


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def with_covariates(sweep, **columns):
    """Give the sweep's cohort covariates, each by the number of the patient."""
    path = sweep.path / "cohort.parquet"
    cohort = pd.read_parquet(path)
    numbers = cohort["patient_id"].str[1:].astype(int)
    for name, value_of in columns.items():
        cohort[name] = [value_of(number) for number in numbers]
    cohort.to_parquet(path, index=False)
    (sweep.path / "design.json").write_text(json.dumps({"covariates": list(columns)}))
    return sweep


def test_instability_is_over_seeds_and_partitions(sweep_maker, tmp_path):
    sweep = sweep_maker(tmp_path / "trial", seeds=(0, 1), repeats=2, modalities=("image",)).write()
    tables = make_tables(read_sweep(sweep.path))
    for architecture, rows in tables.instability.groupby("architecture"):
        logits = {}
        for run_id in sweep.run_ids(architecture=architecture):
            table = sweep.get(run_id)
            for row in table[table["part"] == "oof"].itertuples():
                logits.setdefault(row.patient_id, []).append(row.logit - SHIFT)
        assert rows["patient_id"].tolist() == sorted(logits)
        for row in rows.itertuples():
            each = logits[row.patient_id]
            assert row.models == len(each) == 4
            mean = sigmoid(sum(each) / 4)
            assert row.mean_probability == pytest.approx(mean)
            expected = sum(abs(sigmoid(x) - mean) for x in each) / 4
            assert row.mape == pytest.approx(expected)
            assert row.lowest == pytest.approx(min(map(sigmoid, each)))
            assert row.highest == pytest.approx(max(map(sigmoid, each)))
            assert row.label == sweep.labels[row.patient_id]
    models = tables.instability_models
    assert len(models) == 2 * 4 * 40
    assert set(zip(models["repeat"], models["seed"], strict=True)) == {
        (0, 0), (0, 1), (1, 0), (1, 1),
    }  # fmt: skip


def test_one_model_a_patient_has_no_instability_and_the_report_says_so(sweep_maker, tmp_path):
    evaluation = compute(sweep_maker(tmp_path / "trial").write().path)
    tables = evaluation.tables
    section = instability(evaluation)
    assert "scored out-of-fold by one model" in section.words[0]
    assert not (section.views)
    assert not (section.figures)
    assert drawing(evaluation) is None
    assert tables.instability.empty
    assert tables.instability_models.empty
    assert "mape" in tables.instability


@pytest.fixture
def grouped(sweep_maker, tmp_path):
    sweep = sweep_maker(
        tmp_path / "trial",
        patients=120,
        holdout=60,
        modalities=("image",),
        folds=(0, 1, "all"),
        analysis={"subgroup_events": 12, "subgroup_non_events": 20},
    ).write()
    return with_covariates(
        sweep,
        centre=lambda n: ("north", "south", "tiny")[0 if n % 9 < 5 else 1 if n % 9 < 8 else 2],
        age=lambda n: float(20 + n % 41),
        name=lambda n: f"name {n}",
        grade=lambda n: "" if n % 10 == 0 else "low" if n % 2 else "high",
    )


def test_each_level_has_the_figures_of_its_patients(grouped):
    tables = make_tables(read_sweep(grouped.path))
    table = tables.subgroups
    assert set(table["architecture"]) == set(
        tables.cells.loc[tables.cells["selected"], "architecture"]
    )
    assert len(set(table["architecture"])) == 1, "the selected one, not all"
    assert set(table["part"]) == {"oof"}, "sealed"
    found = {(row.covariate, row.level): row for row in table.itertuples()}
    median = float(np.median([20 + n % 41 for n in range(120)]))
    levels = {
        ("centre", "north"): lambda n: n % 9 < 5,
        ("centre", "south"): lambda n: 5 <= n % 9 < 8,
        ("centre", "tiny"): lambda n: n % 9 == 8,
        ("age", f"at most {median:g}"): lambda n: 20 + n % 41 <= median,
        ("age", f"above {median:g}"): lambda n: 20 + n % 41 > median,
        ("grade", "low"): lambda n: n % 10 != 0 and n % 2,
        ("grade", "high"): lambda n: n % 10 != 0 and not n % 2,
        ("grade", "missing"): lambda n: n % 10 == 0,
    }
    assert set(found) == set(levels), "none of names"
    shown = 0
    patients = tables.patients
    oof = patients[
        (patients["part"] == "oof") & patients["architecture"].isin(table["architecture"])
    ]
    for key, is_in in levels.items():
        row = found[key]
        mine = oof[[bool(is_in(int(name[1:]))) for name in oof["patient_id"]]]
        events = int(mine["label"].sum())
        assert (row.patients, row.events) == (len(mine), events)
        if events < 12 or len(mine) - events < 20:
            assert row.reason == "too few: at least 12 events and 20 non-events are asked for"
            assert math.isnan(row.auc)
            assert math.isnan(row.slope)
            continue
        shown += 1
        auc = auc_interval(mine["label"], mine["score"])
        assert (row.auc, row.low, row.high) == pytest.approx((auc.auc, auc.low, auc.high))
        agreement = calibration(mine["label"], mine["probability"])
        assert row.slope == pytest.approx(agreement.slope, abs=1e-6)
        assert row.intercept_low == pytest.approx(agreement.intercept_low, abs=1e-6)
    assert 4 <= shown < len(levels)


def test_the_report_shows_levels_and_says_what_is_asked_for(grouped):
    (view,) = subgroups(evaluation := compute(grouped.path)).views
    assert len(view.rows) == len(evaluation.tables.subgroups) == 8
    assert "from 12 events and 20 non-events" in subgroups(evaluation).words[0]
    assert any("too few" in note for note in view.notes)
    (grouped.path / "design.json").unlink()
    assert "--covariates centre,sex" in subgroups(compute(grouped.path)).words[0]


def test_the_hold_out_is_there_once_it_is_open(grouped):
    hidden = {name: grouped.labels[name] for name in grouped.hidden}
    table = make_tables(read_sweep(grouped.path), test_labels=hidden).subgroups
    test = table[(table["part"] == "test") & (table["covariate"] == "centre")]
    assert test["patients"].sum() == 60
    assert test["events"].sum() == sum(hidden.values())


def test_a_declared_architecture_is_there_beside_the_selected_ones(grouped):
    selected = set(make_tables(read_sweep(grouped.path)).subgroups["architecture"])
    (other,) = {"alpha", "beta"} - selected
    declared = {"modalities": ["image", "video"], "architecture": other}
    grouped.analysis = {"primary": declared}
    grouped.list_runs()
    assert set(make_tables(read_sweep(grouped.path)).subgroups["architecture"]) == {"alpha", "beta"}


def test_without_covariates_there_are_no_groups(sweep_maker, tmp_path):
    tables = make_tables(read_sweep(sweep_maker(tmp_path / "trial").write().path))
    assert tables.subgroups.empty
    assert "slope" in tables.subgroups


@pytest.mark.parametrize("name", ["subgroup_events", "subgroup_non_events"])
def test_a_group_of_one_cannot_be_declared(name):
    with pytest.raises(EvaluationError, match=f"{name} must be 2 or more, got 1"):
        Analysis(**{name: 1})


@pytest.mark.parametrize(
    ("value_of", "levels"),
    [
        (lambda n: n % 3 + 1, ["1", "2", "3"]),  # codes, as of centres
        (lambda n: 40 + n, ["at most 59.5", "above 59.5"]),
        (lambda n: [0.5, 1, 1.5][n % 3], ["at most 1", "above 1"]),
        (lambda n: min(n, 10), ["below 10", "at least 10"]),  # half of them have the highest
    ],
    ids=["codes", "ages", "measured", "ceiling"],
)
def test_few_whole_numbers_are_codes_and_no_group_is_empty(sweep_maker, tmp_path, value_of, levels):
    sweep = with_covariates(sweep_maker(tmp_path / "trial").write(), value=value_of)
    table = make_tables(read_sweep(sweep.path)).subgroups
    rows = table[(table["part"] == "oof") & (table["modality"] == "image")]
    assert [level.removesuffix(".0") for level in rows["level"]] == levels
    assert rows["patients"].sum() == 40
    assert (rows["patients"] > 0).all()

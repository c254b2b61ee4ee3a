"""How sure is the order of the models, and how much of a spread is chance."""

import math

import numpy as np
import pandas as pd
import pytest

from evaluation import (
    EvaluationError,
    auc_interval,
    auc_spread,
    cv_auc,
    cv_auc_test,
    make_tables,
    rank_cells,
    read_sweep,
    run_aucs,
)


def table_of(scores, labels, folds, modality="image"):
    """Rows of `Tables.patients`, {architecture: score of each patient}."""
    return pd.concat(
        pd.DataFrame(
            {
                "architecture": name,
                "modality": modality,
                "part": "oof",
                "fold": folds,
                "patient_id": [f"p{i}" for i in range(len(labels))],
                "label": labels,
                "score": values,
            }
        )
        for name, values in scores.items()
    )


@pytest.fixture(scope="module")
def drawn():
    rng = np.random.default_rng(0)
    labels, folds = np.tile([0.0, 0.0, 1.0], 40), np.repeat(["0", "1"], 60)
    scores = {name: rng.normal(labels * d) for name, d in (("b", 1.0), ("a", 3.0), ("c", 0.9))}
    return scores, labels, folds


def test_ranks_are_by_fold_mean_auc_with_bootstrap_intervals(drawn):
    scores, labels, folds = drawn
    ranking = rank_cells(table_of(scores, labels, folds))
    cells, p = ranking.cells.set_index("architecture"), ranking.probabilities
    assert (ranking.patients, ranking.reason) == (120, "")
    assert cells.index[0] == "a"
    assert cells["rank"].tolist() == [1, 2, 3]
    for name in scores:
        expected = cv_auc(labels, scores[name], folds)
        assert cells.loc[name, "auc"] == pytest.approx(expected.auc, abs=1e-12)
        # Two ways to the same interval.
        ends = cells.loc[name, ["auc_low", "auc_high"]].tolist()
        assert ends == pytest.approx([expected.low, expected.high], abs=0.02)
    assert p.sum(axis=0) == pytest.approx(np.ones(3))
    assert p.sum(axis=1) == pytest.approx(np.ones(3))
    assert p[0, 0] > 0.999
    assert cells["p_first"].tolist() == p[:, 0].tolist()
    assert cells.loc["a", ["rank_low", "rank_high"]].tolist() == [1, 1]
    assert cells.iloc[1][["rank_low", "rank_high"]].tolist() == [2, 3]
    # Another order of the rows is the same ranking.
    again = rank_cells(table_of(dict(reversed(scores.items())), labels, folds))
    assert again.cells["auc"].tolist() == pytest.approx(ranking.cells["auc"].tolist())


def test_models_that_rank_alike_share_the_first_place(drawn):
    scores, labels, folds = drawn
    twins = {"one": scores["a"], "two": 2 * scores["a"] - 1}
    ranking = rank_cells(table_of(twins, labels, folds))
    assert ranking.cells["rank"].tolist() == [1, 1]
    assert ranking.probabilities == pytest.approx(np.full((2, 2), 0.5), abs=0.05)


def test_p_first_is_near_that_of_the_normal_difference(drawn):
    scores, labels, folds = drawn
    pair = {name: scores[name] for name in "bc"}
    p = rank_cells(table_of(pair, labels, folds), draws=4000).cells.set_index("architecture")
    test = cv_auc_test(labels, scores["b"], scores["c"], folds)
    normal = 0.5 * (1 + math.erf(test.z / math.sqrt(2)))
    assert p.loc["b", "p_first"] == pytest.approx(normal, abs=0.05)


def test_only_patients_that_all_scored_are_ranked(drawn):
    scores, labels, folds = drawn
    table = table_of(scores, labels, folds)
    lost = (table["architecture"] == "c") & (table["fold"] == "1")
    ranking = rank_cells(table[~lost])
    assert ranking.patients == 60
    of_fold = {name: values[:60] for name, values in scores.items()}
    whole = rank_cells(table_of(of_fold, labels[:60], folds[:60]))
    pd.testing.assert_frame_equal(ranking.cells, whole.cells)


def test_what_cannot_be_ranked_says_why(drawn):
    scores, labels, folds = drawn
    table = table_of(scores, labels, folds)
    sealed = rank_cells(table.assign(label=np.nan))
    assert sealed.reason == "no patients"
    assert sealed.cells.empty
    assert "p_first" in sealed.cells
    one_class = rank_cells(table[(table["fold"] == "0") | (table["label"] == 0)])
    assert one_class.reason == "fold 1: no positive patient"
    with pytest.raises(EvaluationError, match="patients must be of one part, got oof, test"):
        rank_cells(pd.concat([table, table.assign(part="test")]))
    with pytest.raises(EvaluationError, match="level must be between 0 and 1"):
        rank_cells(table, level=95)


def test_ranking_of_a_sweep_agrees_with_its_cells(sweep):
    tables = make_tables(read_sweep(sweep.path))
    oof = tables.patients[tables.patients["part"] == "oof"]
    ranking = rank_cells(oof, draws=50).cells.set_index(["architecture", "modality"])
    expected = tables.cells.set_index(["architecture", "modality"])["fold_mean_auc"]
    for cell, auc in expected.items():
        assert ranking.loc[cell, "auc"] == pytest.approx(auc, abs=1e-12)


def test_runs_and_their_spread(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", seeds=(0, 1), folds=(0, 1, "all")).write()
    runs = run_aucs(read_sweep(made.path))
    # Fold runs have three labelled parts, the run on all patients two; the hold-out has none.
    assert runs["part"].value_counts().to_dict() == {"train": 24, "inner_val": 24, "oof": 16}
    row = runs[runs["part"] == "oof"].iloc[3]
    mine = made.get(row["run_id"]).query("part == 'oof'")
    expected = auc_interval(mine["label"], mine["logit"])
    assert (row["auc"], row["low"], row["high"]) == (expected.auc, expected.low, expected.high)
    assert (row["patients"], row["events"]) == (len(mine), mine["label"].sum())
    spread = auc_spread(runs).set_index(["architecture", "modality"])
    assert len(spread) == 4
    oof = runs[runs["part"] == "oof"]
    cell = oof[(oof["architecture"] == "beta") & (oof["modality"] == "video")]
    table = cell.pivot(index="fold", columns="seed", values="auc").to_numpy()
    found = spread.loc[("beta", "video")]
    assert (found["folds"], found["seeds"]) == (2, 2)
    assert found["mean"] == pytest.approx(table.mean())
    assert found["sd_folds"] == pytest.approx(table.mean(axis=1).std(ddof=1))
    assert found["sd_seeds"] == pytest.approx(np.sqrt(table.var(axis=1, ddof=1).mean()))
    assert found["sd_chance"] == pytest.approx(np.sqrt(cell["variance"].mean()))


def test_one_seed_and_one_fold_have_no_spread(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0,)).write()
    runs = run_aucs(read_sweep(made.path))
    spread = auc_spread(runs)
    assert spread[["sd_folds", "sd_seeds"]].isna().all(axis=None)
    assert spread["sd_chance"].notna().all()
    assert auc_spread(runs.assign(auc=np.nan)).empty


def test_a_run_of_one_class_says_why(sweep):
    for run_id in sweep.run_ids():
        sweep.change(
            run_id,
            lambda t: t.assign(label=t["label"].mask(t["patient_id"].map(sweep.home) == 1, 0.0)),
        )
    runs = run_aucs(read_sweep(sweep.path))
    undefined = runs[runs["auc"].isna()]
    assert set(undefined["reason"]) == {"no positive patient"}

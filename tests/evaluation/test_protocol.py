"""The protocol as tables: parts side by side, operating points, contrasts, selection, planning."""

import json
import math
from dataclasses import fields

import numpy as np
import pytest

from evaluation import (
    EvaluationError,
    Tables,
    auc_interval,
    best_of,
    calibration,
    clopper_pearson,
    compute,
    cross_fitted_recalibration,
    cv_auc,
    cv_auc_test,
    decision_curve,
    delong_test,
    holm,
    ici_interval,
    make_tables,
    mcnemar,
    overlapping_test,
    read_sweep,
    recalibration,
    render,
    sensitivity_threshold,
    unseal,
    youden_threshold,
)
from evaluation.checklists import fill
from evaluation.figures import drawings
from evaluation.report import report_html
from evaluation.tables.comparisons import (
    AVAILABLE,
    CONFIRMATORY,
    EXPLORATORY,
    OF_ARCHITECTURES,
    OF_MODALITIES,
    PAIRED,
    PRIMARY,
    SECONDARY,
)
from evaluation.tables.planning import DETECTABLE, OPTIMISM, PRIMARY_POWER
from evaluation.tables.scores import DEPLOYED
from evaluation.tables.seal import read_seal
from evaluation.text.model_card import model_card
from evaluation.text.sentences import headline

SHIFT = 0.75

ANALYSIS = {
    "primary": {"modalities": ["video", "image"], "architecture": "alpha"},
    "sensitivity": 0.8,
    "probabilities": [0.3],
}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


def declare(sweep, analysis):
    path = sweep.path / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"analysis": analysis}))


def opened(sweep):
    if not (sweep.path / "unsealed.jsonl").exists():
        unseal(sweep.path, sweep.store, reason="final analysis")
    read = read_sweep(sweep.path)
    seal = read_seal(read)
    return make_tables(read, test_labels=seal.labels, test_thresholds=seal.thresholds)


@pytest.fixture(scope="module")
def made(sweep_maker, tmp_path_factory):
    """Deployed models, two seeds, an analysis declared."""
    path = tmp_path_factory.mktemp("protocol") / "trial"
    made = sweep_maker(path, folds=(0, 1, 2, "all"), seeds=(0, 1), patients=60, holdout=24).write()
    declare(made, ANALYSIS)
    return made


@pytest.fixture(scope="module")
def tables(made):
    return opened(made)


@pytest.fixture(scope="module")
def scores(made):
    """{(architecture, modality): {part: rows of fold, patient, label, score}}."""
    runs = read_sweep(made.path).predictions
    runs["label"] = runs["patient_id"].map(made.labels)
    keys = ["architecture", "modality", "part", "fold", "patient_id", "label"]
    means = runs.groupby(keys)["score"].mean().reset_index()
    # The deployed model is the one of fold "all"; fold models have no say on the hold-out.
    means = means[(means["part"] != "test") | (means["fold"] == "all")]
    return {
        cell: dict(iter(rows.groupby("part")))
        for cell, rows in means.groupby(["architecture", "modality"])
    }


def one(table, **where):
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_train_oof_and_test_stand_side_by_side(tables, scores):
    assert len(tables.aucs) == 4 * 5
    for (architecture, modality), parts in scores.items():
        cell = {"architecture": architecture, "modality": modality}
        oof, test, train = parts["oof"], parts["test"], parts["train"]
        deployed = train[train["fold"] == "all"]
        row = one(tables.aucs, **cell, part="train", estimator="deployed model")
        assert row["auc"] == auc_interval(deployed["label"], deployed["score"]).auc
        assert (row["standing"], row["patients"]) == ("apparent", len(deployed))
        row = one(tables.aucs, **cell, part="train", estimator="fold mean")
        folds = [
            auc_interval(t["label"], t["score"]).auc for f, t in train.groupby("fold") if f != "all"
        ]
        assert row["auc"] == pytest.approx(np.mean(folds), abs=1e-12)
        assert row["standing"] == "apparent"
        assert "no interval" in row["reason"]
        row = one(tables.aucs, **cell, part="oof", estimator="fold mean")
        expected = cv_auc(oof["label"], oof["score"], oof["fold"])
        assert (row["auc"], row["low"], row["high"]) == pytest.approx(
            (expected.auc, expected.low, expected.high), abs=1e-12
        )
        assert (row["standing"], row["method"]) == ("headline", "influence curve")
        row = one(tables.aucs, **cell, part="oof", estimator="pooled")
        assert row["standing"] == "secondary: pooling mixes models"
        assert row["variance"] == pytest.approx(
            auc_interval(oof["label"], oof["score"]).variance, abs=1e-14
        )
        row = one(tables.aucs, **cell, part="test")
        expected = auc_interval(test["label"], test["score"])
        assert (row["auc"], row["low"]) == pytest.approx((expected.auc, expected.low), abs=1e-12)
        logit = auc_interval(test["label"], test["score"], method="logit")
        assert (row["logit_low"], row["logit_high"]) == pytest.approx(
            (logit.low, logit.high), abs=1e-12
        )
        assert (row["estimator"], row["standing"]) == ("deployed model", "test")


def test_operating_points_are_found_out_of_fold(made, tables, scores):
    frozen = json.loads((made.path / "thresholds.json").read_text())
    frozen = {(r["architecture"], r["modality"], r["rule"]): r["threshold"] for r in frozen}
    assert len(tables.operating) == 4 * 3 * 3
    finders = {
        "youden": youden_threshold,
        "sensitivity 0.80": lambda y, x: sensitivity_threshold(y, x, 0.8),
        "probability 0.3": lambda *_: math.log(0.3 / 0.7),
    }
    for cell, parts in scores.items():
        for rule, find in finders.items():
            oof = parts["oof"].sort_values(["fold", "patient_id"])
            # By quantile; a threshold that is declared is a score.
            place = (oof.groupby("fold")["score"].rank() - 0.5) / oof["fold"].map(
                oof["fold"].value_counts()
            )
            cuts = {
                fold: find(oof.loc[oof["fold"] != fold, "label"], place[oof["fold"] != fold])
                for fold in oof["fold"].unique()
            }
            declared = rule.startswith("probability")
            threshold = find(oof["label"], oof["score"])
            assert frozen[(*cell, rule)] == pytest.approx(threshold, abs=1e-12)
            train = parts["train"]
            for part, rows, cut in (
                ("oof", oof, oof["fold"].map(cuts)),
                ("test", parts["test"], threshold),
                ("train", train[train["fold"] == "all"], threshold),
            ):
                row = one(
                    tables.operating, architecture=cell[0], modality=cell[1], part=part, rule=rule
                )
                # An ulp of the mean over seeds must not move a patient over the threshold.
                x = place if part == "oof" and not declared else rows["score"]
                call, sick = x >= cut - 1e-9, rows["label"] == 1
                counts = {
                    "tp": (call & sick).sum(),
                    "fn": (~call & sick).sum(),
                    "fp": (call & ~sick).sum(),
                    "tn": (~call & ~sick).sum(),
                }
                assert {name: row[name] for name in counts} == counts
                n = len(rows)
                for rate, k, total in (
                    ("sensitivity", counts["tp"], sick.sum()),
                    ("specificity", counts["tn"], (~sick).sum()),
                    ("accuracy", counts["tp"] + counts["tn"], n),
                    ("ppv", counts["tp"], call.sum()),
                    ("npv", counts["tn"], (~call).sum()),
                ):
                    ends = clopper_pearson(int(k), int(total))
                    assert (row[f"{rate}_low"], row[f"{rate}_high"]) == pytest.approx(
                        ends, nan_ok=True
                    )
                    if total:
                        assert row[rate] == pytest.approx(k / total)
                assert row["accuracy_commoner_class"] == pytest.approx(
                    max(sick.mean(), 1 - sick.mean())
                )
                assert row["patients"] == n
                if part == "oof":
                    by_fold = [call[sick & (oof["fold"] == f)].mean() for f in oof["fold"].unique()]
                    ends = row["sensitivity_lowest_fold"], row["sensitivity_highest_fold"]
                    assert ends == (min(by_fold), max(by_fold))
                else:
                    assert math.isnan(row["sensitivity_lowest_fold"])
                assert math.isnan(row["threshold"]) == (
                    row["chosen_on"].startswith("the other folds")
                )


def test_sensitivity_rule_gives_the_best_specificity_at_its_sensitivity():
    rng = np.random.default_rng(0)
    for positives in (5, 10, 27):
        labels = np.repeat([1, 0], [positives, 40])
        scores = np.round(rng.normal(labels), 1)
        cut = sensitivity_threshold(labels, scores, 0.9)
        assert (scores[labels == 1] >= cut).mean() >= 0.9
        higher = scores[scores >= cut].min() + 1e-9
        assert (scores[labels == 1] >= higher).mean() < 0.9
    assert sensitivity_threshold([1] * 10 + [0], np.arange(11.0), 0.9) == 0.5  # 9 of 10
    with pytest.raises(EvaluationError, match="sensitivity must be above 0 and at most 1, got 90"):
        sensitivity_threshold([0, 1], [0, 1], 90)


def test_contrasts_are_paired_and_adjusted_in_their_families(tables, scores):
    table = tables.comparisons
    assert (table["patients_used"] == PAIRED).all()
    sizes = {PRIMARY: 1, OF_MODALITIES: 1, OF_ARCHITECTURES: 2}
    assert table.groupby(["family", "part"]).size().to_dict() == {
        (family, part): size for family, size in sizes.items() for part in ("oof", "test")
    }
    for row in table.to_dict("records"):
        a, b = (
            scores[row[f"architecture_{s}"], row[f"modality_{s}"]][row["part"]].sort_values(
                ["fold", "patient_id"]
            )
            for s in "ab"
        )
        expected = (
            cv_auc_test(a["label"], a["score"], b["score"].to_numpy(), a["fold"])
            if row["part"] == "oof"
            else delong_test(a["label"], a["score"], b["score"])
        )
        for name in ("auc_a", "auc_b", "difference", "low", "high", "p_value"):
            assert row[name] == pytest.approx(getattr(expected, name), abs=1e-9)
        assert row["family_size"] == sizes[row["family"]]
    for (family, _), mine in table.groupby(["family", "part"]):
        if family == PRIMARY:
            assert mine["p_holm"].isna().all()
            first = mine.iloc[0]
            assert (first["architecture_a"], first["modality_a"]) == ("alpha", "video")
            assert (first["architecture_b"], first["modality_b"]) == ("alpha", "image")
        else:
            for name in ("p_value", "sensitivity_p", "specificity_p"):
                adjusted = mine["p_holm" if name == "p_value" else f"{name}_holm"].to_numpy()
                np.testing.assert_array_equal(adjusted, holm(mine[name], size=len(mine)))


def test_calls_are_compared_by_mcnemar(tables):
    row = one(tables.comparisons, family=PRIMARY, part="test")
    patients = tables.patients[tables.patients["part"] == "test"].set_index("patient_id")
    of = patients[patients["architecture"] == "alpha"].groupby("modality")
    a, b = of.get_group("video"), of.get_group("image").loc[of.get_group("video").index]
    for name, label in (("sensitivity_p", 1), ("specificity_p", 0)):
        right_a, right_b = (t.loc[t["label"] == label, "call"] == label for t in (a, b))
        expected = mcnemar(int((right_a & ~right_b).sum()), int((~right_a & right_b).sum()))
        assert row[name] == pytest.approx(expected.p_exact, nan_ok=True)


def test_calibration_net_benefit_and_scales(tables, scores):
    for cell, parts in scores.items():
        names = dict(zip(("architecture", "modality"), cell, strict=True))
        for part in ("oof", "test"):
            labels, p = parts[part]["label"], 1 / (1 + np.exp(-parts[part]["score"]))
            row = one(tables.calibration, **names, part=part, state="as predicted")
            expected = calibration(labels, p, log_odds=parts[part]["score"])
            for name in ("intercept", "slope", "brier_scaled", "ici"):
                assert row[name] == pytest.approx(getattr(expected, name), abs=1e-9)
            curve = tables.net_benefit[
                (tables.net_benefit[[*names, "part"]] == [*cell, part]).all(axis=1)
            ]
            expected = decision_curve(labels, p, thresholds=curve["threshold"])
            np.testing.assert_allclose(curve["model"], expected.model, atol=1e-12)
            scale = one(tables.scales, **names, part=part)
            assert scale["q50"] == pytest.approx(parts[part]["score"].median())
            calls = parts[part]["score"] >= scale["threshold"] - 1e-9
            assert scale["called_positive"] == pytest.approx(calls.mean())


def test_recalibration_is_by_the_other_folds_and_on_the_hold_out_by_all(tables, scores):
    for cell, parts in scores.items():
        names = dict(zip(("architecture", "modality"), cell, strict=True))
        oof, test = parts["oof"], parts["test"]
        mapped, maps = cross_fitted_recalibration(oof["label"], oof["score"], oof["fold"])
        deployed = recalibration(oof["label"], oof["score"])
        for part, odds in (("oof", mapped), ("test", deployed.log_odds(test["score"]))):
            labels, p = parts[part]["label"], sigmoid(odds)
            row = one(tables.calibration, **names, part=part, state="recalibrated")
            expected = vars(calibration(labels, p, log_odds=odds)) | vars(ici_interval(labels, p))
            for name in ("slope", "slope_low", "brier", "brier_high", "ici", "ici_low", "e90_high"):
                assert row[name] == pytest.approx(expected[name], abs=1e-7), name
        for applies_to, found in (*maps.items(), (DEPLOYED, deployed)):
            row = one(tables.recalibration, **names, applies_to=applies_to)
            assert (row["intercept"], row["slope"]) == pytest.approx((found.intercept, found.slope))
            assert row["patients"] == found.patients


def test_a_fold_with_one_event_is_marked_in_every_table_that_uses_it(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, "all"))
    mine = [name for name in made.development if made.home[name] == 1]
    for name in mine:
        made.labels[name] = int(name == mine[3])
    made.write()
    result = compute(made.path)
    tables = result.tables
    oof = [
        tables.folds[tables.folds["fold"] == "1"],
        tables.cells,
        tables.modalities,
        *(t[t["part"] == "oof"] for t in (tables.operating, tables.comparisons)),
        tables.aucs[(tables.aucs["part"] == "oof") & (tables.aucs["estimator"] == "fold mean")],
    ]
    for table in oof:
        assert len(table)
        assert table["reason"].str.contains("single").all(), table
    assert (tables.folds.loc[tables.folds["fold"] == "0", "reason"] == "").all()
    html = report_html(result, drawings(result), fill(result))
    for name in ("cells", "modalities", "folds-table", "youden", "contrasts-table"):
        section = html[html.index(f'id="{name}"') :]
        assert "single" in section[: section.index("</ul>")], name


def test_a_certain_network_keeps_its_slope_and_no_cell_is_dropped(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial").write()
    for run_id in made.run_ids(architecture="alpha", modality="image"):
        # A finite score, whose probability is 0 or 1 in float64 for most patients.
        made.change(
            run_id, lambda t: t.assign(logit=(x := 60 * t["logit"]), probability=sigmoid(x - SHIFT))
        )
    for run_id in made.run_ids(architecture="beta", modality="image"):
        made.change(run_id, lambda t: t.assign(logit=0.4, probability=float(sigmoid(0.4 - SHIFT))))
    before = compute(made.path)
    rows = before.tables.calibration.set_index(["architecture", "modality", "state"])
    mended = rows.loc[("alpha", "image", "recalibrated")]
    assert 0.3 < mended["slope"] < 3
    rows = rows.xs("as predicted", level="state")
    row = rows.loc[("alpha", "image")]
    assert 0 < row["slope"] < 0.1
    assert row["slope_low"] < row["slope"] < row["slope_high"]
    assert "for all patients has no slope" in rows.loc[("beta", "image"), "reason"]
    assert "(undefined for 1 of 4)" in drawings(before)["calibration"].alt


def test_sealed_tables_hold_no_label_of_the_hold_out(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, "all")).write()
    tables = make_tables(read_sweep(made.path))
    test = tables.comparisons[tables.comparisons["part"] == "test"]
    assert (test["reason"] == "sealed").all()
    for table, names in (
        (test, ["events_a", "auc_a", "difference", "p_value", "p_holm", "sensitivity_p"]),
        (tables.aucs[tables.aucs["part"] == "test"], ["events", "auc", "low"]),
        (tables.operating[tables.operating["part"] == "test"], ["events", "tp", "accuracy"]),
        (tables.patients[tables.patients["part"] == "test"], ["label"]),
    ):
        assert len(table)
        assert table[names].isna().all(axis=None)
    for table in (tables.roc, tables.roc_bands, tables.calibration, tables.net_benefit):
        assert set(table["part"]) == {"oof"}
    # Where the deployed scores lie needs no label.
    assert tables.scales.query("part == 'test'")["called_positive"].notna().all()


def test_architecture_is_selected_out_of_fold_whatever_the_test_set_says(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, "all")).write()
    declare(made, {"primary": {"modalities": ["video", "image"], "architecture": "selected"}})
    cells = make_tables(read_sweep(made.path)).cells
    selected = {
        m: t.loc[t["fold_mean_auc"].idxmax(), "architecture"] for m, t in cells.groupby("modality")
    }
    assert dict(cells.loc[cells["selected"], ["modality", "architecture"]].to_numpy()) == selected
    # The hold-out now speaks for the others: their deployed model is perfect, the chosen reversed.
    for run_id in made.run_ids(fold="all"):
        architecture, modality = run_id.split("-")[:2]
        sign = -4 if selected[modality] == architecture else 4
        made.change(
            run_id,
            lambda t, sign=sign: t.assign(
                logit=(y := sign * t["patient_id"].map(made.labels)),
                probability=1 / (1 + np.exp(0.75 - y)),
            ),
        )
    tables = opened(made)
    after = tables.cells
    assert dict(after.loc[after["selected"], ["modality", "architecture"]].to_numpy()) == selected
    row = one(tables.comparisons, family=PRIMARY, part="test")
    assert row["architecture_a"] == selected["video"]
    assert row["architecture_b"] == selected["image"]


def test_where_modalities_are_missing_both_sets_are_given(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, "all"), patients=60, holdout=24).write()
    declare(made, ANALYSIS)
    without = {*made.development[5:60:6], *made.hidden[:6]}  # no clip
    for run_id in made.run_ids(modality="video"):
        made.change(run_id, lambda t: t[~t["patient_id"].isin(without)])
    tables = opened(made)
    table = tables.comparisons[tables.comparisons["family"] == PRIMARY]
    assert list(table["patients_used"]) == [PAIRED, AVAILABLE] * 2
    paired, available = (
        one(table, part="test", patients_used=PAIRED),
        one(table, part="test", patients_used=AVAILABLE),
    )
    assert (paired["patients_a"], paired["patients_b"]) == (18, 18)
    assert (available["patients_a"], available["patients_b"]) == (18, 24)
    assert math.isfinite(paired["p_value"])
    assert math.isnan(available["p_value"])
    sides = []
    test = tables.patients[
        (tables.patients["part"] == "test") & (tables.patients["architecture"] == "alpha")
    ]
    for modality in ("video", "image"):
        mine = test[test["modality"] == modality]
        sides.append((mine["patient_id"], mine["label"], mine["score"]))
    expected = overlapping_test(*sides)
    assert (available["difference"], available["low"]) == pytest.approx(
        (expected.difference, expected.low), abs=1e-12
    )
    oof = one(table, part="oof", patients_used=AVAILABLE)
    assert oof["patients_b"] - oof["patients_a"] == 10
    assert oof["low"] < oof["difference"] < oof["high"]
    # The families of one modality have nothing missing.
    of = tables.comparisons[tables.comparisons["family"] == OF_ARCHITECTURES]
    assert (of["patients_used"] == PAIRED).all()


def test_a_family_counts_pairs_whose_runs_failed(sweep):
    for run_id in sweep.run_ids(architecture="alpha", modality="image"):
        sweep.status(run_id, "failed", "no device")
    table = make_tables(read_sweep(sweep.path)).comparisons
    mine = table[(table["family"] == OF_MODALITIES) & (table["part"] == "oof")]
    mine = mine[mine["patients_used"] == PAIRED]
    assert mine["family_size"].tolist() == [2, 2]
    assert mine["p_value"].isna().sum() == 1
    defined = mine[mine["p_value"].notna()].iloc[0]
    assert defined["p_holm"] == pytest.approx(min(1, 2 * defined["p_value"]))


def test_a_primary_contrast_without_its_runs_is_told(sweep):
    declare(sweep, {"primary": {"modalities": ["combined", "image"]}})
    result = compute(sweep.path)
    assert not (result.tables.comparisons["family"] == PRIMARY).any()
    assert "Primary contrast, combined less image: not all of its runs are done." in render(result)


def test_a_contrast_of_selected_architectures_is_exploratory_out_of_fold(sweep_maker, tmp_path):
    """And says so wherever its figure stands: headline, report, TRIPOD item 23a, model card."""
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, "all"), patients=60, holdout=24).write()
    declare(made, {"primary": {"modalities": ["video", "image"], "architecture": "selected"}})
    label = "xploratory (architectures chosen on the same patients)"
    sealed = compute(made.path)
    table = sealed.tables.comparisons
    table = table[table["family"] == PRIMARY].set_index("part")
    assert table["standing"].to_dict() == {"oof": EXPLORATORY, "test": CONFIRMATORY}
    answers = {item.number: item.answer for item in fill(sealed)["tripod_ai"]}
    card = model_card(sealed)
    for text in (
        headline(sealed),
        answers["23a"],
        card,
        report_html(sealed, drawings(sealed), fill(sealed)),
    ):
        assert "The confirmatory contrast, on the test set, has no answer yet: sealed." in text
        assert label in text
    text = " ".join(render(sealed).split())
    assert "(exploratory):" in text
    assert "(architectures chosen on the same patients)" in text
    unseal(made.path, made.store, reason="final analysis")
    after = compute(made.path)
    first, second = headline(after).split(" E", 1)
    assert " on the test set: difference " in first
    assert second.startswith(label)


def test_the_mean_over_architectures_is_compared(made, tables, scores):
    """By brute force, from the placements of every architecture."""
    declare(made, {"primary": {"modalities": ["video", "image"]}})
    try:
        result = compute(made.path)
    finally:
        declare(made, ANALYSIS)
    table = result.tables.comparisons
    primary = table[table["family"] == PRIMARY].set_index("part")
    assert primary["standing"].to_dict() == {"oof": CONFIRMATORY, "test": SECONDARY}
    assert (primary[["architecture_a", "architecture_b"]] == "mean").all(axis=None)
    assert (primary["models_a"] == 2).all()
    # Every pair is in a family: none of them is the primary contrast.
    assert (table["family"] == OF_MODALITIES).sum() == 4
    for part, row in primary.to_dict("index").items():
        keys = ["fold", "patient_id"]
        sides = []
        for modality in ("video", "image"):
            cells = [scores[a, modality][part].sort_values(keys) for a in ("alpha", "beta")]
            known = cells[0]
            curve = np.zeros(len(known))
            aucs = []
            sick = known["label"].to_numpy() == 1
            folds = known["fold"].to_numpy()
            for fold in np.unique(folds):
                for cell in cells:
                    x = cell["score"].to_numpy()
                    up, down = (folds == fold) & sick, (folds == fold) & ~sick
                    apart = x[up][:, None] - x[down][None]
                    wins = (apart > 0) + 0.5 * (apart == 0)
                    aucs.append(wins.mean())
                    m, n = wins.shape
                    size, count = len(known), np.unique(folds).size
                    for mine, placed, k, share in (
                        (up, wins.mean(axis=1), m, sick.mean()),
                        (down, wins.mean(axis=0), n, 1 - sick.mean()),
                    ):
                        if part == "test":  # DeLong: variance of the placements over their number
                            curve[mine] += (placed - wins.mean()) / (k * (k - 1)) ** 0.5 / 2
                        else:
                            spread = (k / (k - 1)) ** 0.5 / share
                            weight = (count * (m + n) * size) ** 0.5
                            curve[mine] += (placed - wins.mean()) * spread / weight / 2
            sides.append((np.mean(aucs), curve))
        (auc_a, curve_a), (auc_b, curve_b) = sides
        se = (((curve_a - curve_b) ** 2).sum()) ** 0.5
        assert row["difference"] == pytest.approx(auc_a - auc_b, abs=1e-9)
        assert (row["high"] - row["low"]) / 2 == pytest.approx(1.959964 * se, rel=1e-5)
    assert headline(result).startswith(("The video models (mean over", "No difference of AUC betw"))
    assert " Secondary, " in headline(result)
    assert (made.path / "sweep.json").exists()


def test_seeds_that_differ_in_number_are_not_tested(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", seeds=(0, 1)).write()
    made.entries[:] = [e for e in made.entries if (e["architecture"], e["seed"]) != ("beta", 1)]
    made.list_runs()
    declare(made, {"primary": {"modalities": ["video", "image"]}})
    table = make_tables(read_sweep(made.path)).comparisons.query("part == 'oof'")
    mixed = table[(table["family"] == PRIMARY) | (table["family"] == OF_ARCHITECTURES)]
    assert len(mixed) == 3
    assert (mixed["reason"] == "not tested, for the numbers of seeds differ: 1, 2").all()
    figures = ["auc_a", "difference", "low", "p_value", "p_holm", "sensitivity_p"]
    assert mixed[figures].isna().all(axis=None)
    alike = table[table["family"] == OF_MODALITIES]
    assert alike["p_holm"].notna().all()


def test_a_deployed_model_is_not_tested_against_an_ensemble(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, "all")).write()
    made.entries[:] = [e for e in made.entries if (e["architecture"], e["fold"]) != ("beta", "all")]
    made.list_runs()
    declare(made, {"primary": {"modalities": ["video", "image"]}})
    table = opened(made).comparisons
    mixed = table[(table["part"] == "test") & (table["family"] != OF_MODALITIES)]
    assert len(mixed) == 3
    assert (mixed["reason"].str.endswith("deployed model, ensemble of fold models")).all()
    assert mixed["p_value"].isna().all()
    assert table.loc[~table.index.isin(mixed.index), "p_value"].notna().all()


def test_incomplete_cells_are_not_tested(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, 2)).write()
    declare(made, {"primary": {"modalities": ["video", "image"]}})
    made.status(made.run_ids(architecture="alpha", modality="image", fold=2)[0], "running")
    table = make_tables(read_sweep(made.path)).comparisons
    table = table[(table["part"] == "oof") & (table["patients_used"] == PAIRED)]
    untested = table[table["reason"] != ""]
    assert untested["family"].tolist() == [PRIMARY, OF_MODALITIES, OF_ARCHITECTURES]
    assert (untested["reason"] == "not tested before all runs are done: alpha image 2 of 3").all()
    assert untested[["difference", "p_value", "specificity_p_holm"]].isna().all(axis=None)
    assert table.loc[table["reason"] == "", "p_value"].notna().all()


def test_planning_states_what_the_cohort_can_show(tables):
    planning = tables.planning.set_index(["quantity", "part"])
    choices = planning.loc[[(OPTIMISM, "oof")]]
    assert list(choices["modality"]) == ["image", "video"]
    for optimism in choices.to_dict("records"):
        assert (optimism["models"], optimism["folds"], optimism["patients"]) == (2, 3, 60)
        assert 0 < optimism["value"] < 0.2
    assert 0 < planning.loc[(DETECTABLE, "oof"), "value"] < 0.3
    assert "no AUC up to 0.9999 is told from" in planning.loc[(DETECTABLE, "test"), "reason"]
    assert 0 <= planning.loc[(PRIMARY_POWER, "test"), "value"] <= 1


def test_the_best_of_a_modality_is_corrected_for_the_choice(made, scores):
    result = compute(made.path)
    text = " ".join(render(result).split())
    card = " ".join(model_card(result).split())
    for mean in result.tables.modalities.to_dict("records"):
        mine = {a: parts["oof"] for (a, m), parts in scores.items() if m == mean["modality"]}
        tables = [t.sort_values(["fold", "patient_id"]) for t in mine.values()]
        known = tables[0]
        expected = best_of(
            known["label"], np.stack([t["score"] for t in tables]), known["fold"].to_numpy()
        )
        assert mean["best"] == list(mine)[expected.model]
        best = cv_auc(*(tables[expected.model][name] for name in ("label", "score", "fold")))
        assert mean["best_auc"] == pytest.approx(best.auc)
        assert mean["best_corrected"] == pytest.approx(expected.auc, abs=0.002)
        assert mean["optimism"] == pytest.approx(best.auc - mean["best_corrected"])
        assert mean["best_low"] == pytest.approx(max(0, best.low - mean["optimism"]))
        shown = f"{mean['best_corrected']:.3f} ({mean['best_low']:.3f}–{mean['best_high']:.3f})"
        assert f"{shown} corrected for choosing {mean['best']} of 2" in text
        assert f"best of 2, {best.auc:.3f}" in card
        assert f"The best of 2 equally good {mean['modality']} models" in text


def test_the_best_is_found_where_cells_list_other_folds(sweep_maker, tmp_path):
    made = sweep_maker(tmp_path / "trial", folds=(0, 1, 2)).write()
    made.entries[:] = [e for e in made.entries if (e["architecture"], e["fold"]) != ("beta", 2)]
    made.list_runs()
    declare(made, {"primary": {"modalities": ["video", "image"]}})
    result = compute(made.path)
    assert result.tables.modalities["best_corrected"].notna().all()
    primary = result.tables.comparisons.query("family == 'primary' and part == 'oof'")
    assert primary["patients_a"].tolist() == [28]
    assert primary["p_value"].notna().all()


def test_planning_without_enough_patients_says_why(sweep_maker, tmp_path):
    made = sweep_maker(
        tmp_path / "one", architectures=("alpha",), modalities=("image",), patients=12, holdout=3
    ).write()
    planning = make_tables(read_sweep(made.path)).planning
    assert planning["value"].isna().all()
    assert planning["reason"].str.contains("must").all()


@pytest.mark.parametrize(
    "analysis", [{"primry": {}}, {"primary": {"modalities": 3}}, {"primary": {"models": []}}, []]
)
def test_an_analysis_of_another_form_is_refused(sweep, analysis):
    declare(sweep, analysis)
    with pytest.raises(
        EvaluationError, match=r"analysis in sweep.json must be as the sweep froze it"
    ):
        read_sweep(sweep.path)


@pytest.mark.parametrize(
    ("analysis", "message"),
    [
        (
            {"primary": {"modalities": ["image", "image"]}},
            "primary.modalities must be two that differ",
        ),
        (
            {"primary": {"modalities": ["video", "image"], "part": "train"}},
            "primary.part must be oof or test, got 'train'",
        ),
        (
            {
                "primary": {
                    "modalities": ["video", "image"],
                    "architecture": "selected",
                    "part": "oof",
                }
            },
            "primary.part must be test where primary.architecture is selected",
        ),
        ({"sensitivity": 0}, "sensitivity must be above 0"),
        ({"probabilities": [0.2, 1.0]}, "probabilities must be above 0 and below 1"),
    ],
)
def test_an_analysis_out_of_range_is_refused(sweep, analysis, message):
    declare(sweep, analysis)
    with pytest.raises(EvaluationError, match=message):
        read_sweep(sweep.path)


@pytest.mark.parametrize(
    ("folds", "listed", "pending"),
    [
        ((0,), (0,), None),
        ((0, "all"), ("all",), None),
        ((0, 1, "all"), (0, 1, "all"), {"fold": "all"}),
        ((0, 1, "all"), (0, 1, "all"), {"architecture": "alpha"}),
    ],
    ids=["one fold", "no folds", "deployed not done", "cells not done"],
)
def test_unfinished_and_odd_sweeps_are_evaluated(sweep_maker, tmp_path, folds, listed, pending):
    made = sweep_maker(tmp_path / "trial", folds=folds).write()
    made.entries[:] = [entry for entry in made.entries if entry["fold"] in listed]
    made.list_runs()
    declare(made, ANALYSIS)
    for run_id in made.run_ids(**pending) if pending else ():
        made.status(run_id, "pending")
    render(compute(made.path))
    unseal(made.path, made.store, reason="final analysis", unfinished=True)
    result = compute(made.path)
    assert result.exit_code == 0
    text = render(result)
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert "</html>" in report_html(result, drawings(result), fill(result))
    for field in fields(Tables):
        assert len(getattr(result.tables, field.name).columns), field.name

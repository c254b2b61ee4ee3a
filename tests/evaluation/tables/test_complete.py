"""Results with and without the patients who lack a modality."""

import pandas as pd
import pytest

from evaluation import compute, cv_auc, cv_auc_test, delong_test, evaluate, unseal
from evaluation.tables.scores import of_cell

PRIMARY = {"primary": {"modalities": ["combined", "image"]}}


def take(made, modality, patients):
    """Their files of a modality were never there, and models of it alone did not score them."""
    for folder in (made.path, made.store):
        path = folder / "cohort.parquet"
        items = pd.read_parquet(path)
        lost = (items["modality"] == modality) & items["patient_id"].isin(patients)
        items[~lost].to_parquet(path, index=False)
    for run_id in made.run_ids(modality={"ceus": "video"}.get(modality, modality)):
        made.change(run_id, lambda t: t[~t["patient_id"].isin(patients)])


@pytest.fixture(scope="module")
def made(sweep_maker, tmp_path_factory):
    made = sweep_maker(
        tmp_path_factory.mktemp("complete") / "trial",
        modalities=("image", "video", "combined"), folds=(0, 1, "all"), analysis=PRIMARY,
        patients=60, holdout=30,
    ).write()  # fmt: skip
    take(made, "image", made.development[5:8])
    take(made, "ceus", [*made.development[:4], *made.hidden[:2]])
    unseal(made.path, made.store, reason="because")
    return made


@pytest.fixture(scope="module")
def result(made):
    return evaluate(made.path)


def one(table, **where):
    (row,) = table[(table[list(where)] == list(where.values())).all(axis=1)].to_dict("records")
    return row


def test_cells_on_all_and_on_those_with_both(made, result):
    lacking = {*made.development[:4], *made.development[5:8]}
    for modality, lack in (("image", (0, 4)), ("video", (3, 0)), ("combined", (3, 4))):
        row = one(
            result.tables.complete, what="cell", part="oof", architecture="alpha", modality=modality
        )
        mine = of_cell(result.tables.patients, "alpha", modality, part="oof")
        both = mine[~mine["patient_id"].isin(lacking)]
        assert (row["lack_image"], row["lack_clip"]) == lack
        assert (row["patients"], row["patients_complete"]) == (len(mine), 53)
        assert row["events_complete"] == both["label"].sum()
        for end, table in (("", mine), ("_complete", both)):
            auc = cv_auc(table["label"], table["score"], table["fold"])
            found = [row[f"{name}{end}"] for name in ("value", "low", "high")]
            assert found == pytest.approx([auc.auc, auc.low, auc.high])


def test_the_primary_contrast_on_both_parts(made, result):
    lacking = {*made.development[:8], *made.hidden[:2]} - {made.development[4]}
    for part in ("oof", "test"):
        row = one(result.tables.complete, what="primary contrast", part=part)
        wide = result.tables.patients.query("part == @part").pivot(
            index=["patient_id", "label", "fold"], columns=["modality", "architecture"],
            values="score",
        )[["combined", "image"]].dropna()  # fmt: skip
        for end, table in (
            ("", wide),
            ("_complete", wide[~wide.index.get_level_values(0).isin(lacking)]),
        ):
            known = table.index.to_frame()
            a, b = (table[name].to_numpy().T for name in ("combined", "image"))
            if part == "oof":
                test = cv_auc_test(known["label"], a, b, known["fold"])
            else:
                test = delong_test(known["label"], a, b)
            found = [row[f"{name}{end}"] for name in ("value", "low", "high")]
            assert found == pytest.approx([test.difference, test.low, test.high])
        paired = result.tables.comparisons.query(
            "family == 'primary' and part == @part and patients_used == 'paired'"
        ).iloc[0]
        assert row["value"] == pytest.approx(paired["difference"])


def test_the_page_shows_it(result):
    page = result.report.read_text()
    for name in ("complete-primary", "complete-cells"):
        assert f'id="{name}"' in page


def test_sealed_it_has_counts_of_the_hold_out_only(sweep_maker, tmp_path):
    made = sweep_maker(
        tmp_path / "trial", architectures=("alpha",), modalities=("image", "combined"),
        analysis=PRIMARY,
    ).write()  # fmt: skip
    take(made, "ceus", [*made.development[:3], made.hidden[0]])
    result = compute(made.path)
    hidden = result.tables.complete.query("part == 'test'")
    assert len(hidden) == 3
    assert (hidden["lack_clip"] == 1).all()
    assert hidden[["events", "events_complete", "value", "low_complete"]].isna().all(axis=None)


def test_where_nobody_lacks_one_there_is_nothing_to_compare(sweep):
    result = evaluate(sweep.path)
    assert result.tables.complete.empty
    assert "without the patients who lack" not in result.report.read_text()


def test_where_items_are_not_known_nothing_is_claimed(sweep):
    (sweep.path / "cohort.parquet").unlink()
    assert compute(sweep.path).tables.complete.empty

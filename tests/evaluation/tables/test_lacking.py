"""How many patients of a combined model lack a modality stands beside its figures."""

import pandas as pd
import pytest

from evaluation import compute, evaluate, render
from evaluation.tables.cohort import lacking_table
from evaluation.text.model_card import model_card
from evaluation.text.sentences import preface


@pytest.fixture
def combined(sweep_maker, tmp_path):
    return sweep_maker(
        tmp_path / "trial", architectures=("alpha",), modalities=("image", "combined")
    ).write()


def take(sweep, modality, patients):
    path = sweep.path / "cohort.parquet"
    items = pd.read_parquet(path)
    lost = (items["modality"] == modality) & items["patient_id"].isin(patients)
    items[~lost].to_parquet(path, index=False)


def told(result):
    return " ".join(render(result).split()), " ".join(preface(result))


def test_those_who_lack_one_are_counted_part_by_part(combined):
    take(combined, "ceus", [*combined.development[:2], combined.hidden[0]])
    take(combined, "image", combined.development[5:6])
    result = compute(combined.path)
    table = lacking_table(result.study, result.tables.patients).set_index("part")
    assert table.loc["oof"].to_dict() == {
        "patients": 40, "image": 1, "ceus": 2, "lacking": 3, "share": 3 / 40,
    }  # fmt: skip
    assert table.loc["test", "lacking"] == 1
    for text in told(result):
        assert (
            "Combined: 3 of the 40 patients, out-of-fold, lack a modality (1 an image, 2 a clip) "
            "and are scored on the other alone."
        ) in text
        assert "Warning: Combined: 1 of the 10 patients, test, lack a modality" in text
        assert "Warning: Combined: 3" not in text


@pytest.mark.parametrize(("count", "warned"), [(3, False), (4, True), (40, True)])
def test_many_are_a_warning(combined, count, warned):
    take(combined, "ceus", combined.development[:count])
    for text in told(compute(combined.path)):
        assert (f"Warning: Combined: {count} of the 40 patients" in text) is warned


def test_the_report_says_it_under_each_table_of_combined_figures(combined):
    take(combined, "ceus", combined.development[:3])
    result = evaluate(combined.path)
    text = result.report.read_text()
    assert "Combined: none" not in render(result)
    said = "Combined: 3 of the 40 patients, out-of-fold, lack a modality"
    assert text.count(said) >= 6
    assert "Combined: none of the 10 patients, test, lacks a modality." in text


def test_the_model_card_says_it(sweep_maker, tmp_path):
    deployed = sweep_maker(
        tmp_path / "trial", architectures=("alpha",), modalities=("combined",), folds=(0, 1, "all")
    ).write()
    take(deployed, "ceus", deployed.development[:4])
    card = model_card(compute(deployed.path))
    assert "Warning: Combined: 4 of the 40 patients, out-of-fold, lack a modality" in card


def test_where_items_are_not_known_nothing_is_claimed(combined):
    (combined.path / "cohort.parquet").unlink()
    result = compute(combined.path)
    assert lacking_table(result.study, result.tables.patients).empty
    assert "lack" not in render(result)


def test_without_a_combined_model_there_is_nothing_to_say(sweep):
    assert "lack" not in render(compute(sweep.path))

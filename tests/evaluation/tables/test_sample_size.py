"""Riley's criteria at the size of a sweep's own cohort."""

from scipy.special import expit as sigmoid

from evaluation import compute, evaluate
from evaluation.statistics.sample_size import cox_snell, development_size, validation_size


def test_what_is_needed_stands_beside_what_there_is(sweep):
    result = evaluate(sweep.path)
    table = result.tables.sample_size
    assert len(table) == 3 + 3 + 3
    auc = result.tables.cells["fold_mean_auc"].mean()
    rate = 14 / 40
    size = development_size(rate, cox_snell(auc, rate))
    assert table["needed_patients"].tolist()[:3] == [size.shrinkage, size.optimism, size.risk]
    needed = validation_size(rate, auc)
    for part, patients in (("oof", 40), ("test", 10)):
        mine = table[(table["stage"] == "validation") & (table["part"] == part)]
        assert set(mine["patients"]) == {patients}
        assert mine["needed_patients"].tolist() == list(vars(needed).values())
    assert ((table["patients"] >= table["needed_patients"]) == (table["met"] == "yes")).all()
    assert set(table["met"]) == {"yes", "no"}
    assert table["events"].tolist()[-1] == round(10 * rate)
    page = result.report.read_text()
    section = page[page.index('id="sample-size"') :]
    assert "calibration slope: interval of width 0.2" in section[: section.index("</table>")]


def test_where_no_size_can_be_found_the_reason_is_given(sweep):
    for run_id in sweep.run_ids():
        sweep.change(run_id, lambda t: t.assign(logit=0.4, probability=float(sigmoid(-0.35))))
    (row,) = compute(sweep.path).tables.sample_size.to_dict("records")
    assert row["reason"].startswith("r2 must be above 0")


def test_without_a_complete_cell_there_is_no_row(sweep):
    for run_id in sweep.run_ids(fold=1):
        sweep.status(run_id, "failed", "lost")
    assert compute(sweep.path).tables.sample_size.empty

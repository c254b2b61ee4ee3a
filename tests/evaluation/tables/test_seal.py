"""The hold-out stays sealed until it is opened with a reason, and every opening leaves a trace."""

import json

import numpy as np
import pandas as pd
import pytest

from evaluation import (
    EvaluationError,
    compute,
    read_seal,
    read_sweep,
    render,
    unseal,
    youden_threshold,
)
from evaluation.text.sentences import preface

FIRST = "alpha-image-fold0-seed0-01234567"


def seal_of(sweep):
    return read_seal(read_sweep(sweep.path))


def ledger(sweep):
    return [json.loads(line) for line in (sweep.path / "unsealed.jsonl").read_text().splitlines()]


def test_sealed_until_opened(sweep):
    seal = seal_of(sweep)
    assert (seal.openings, seal.problems, seal.labels) == ((), (), None)


def test_opening_freezes_records_and_then_copies_the_labels(sweep):
    unseal(sweep.path, sweep.store, reason="final  analysis\nas registered")
    seal = seal_of(sweep)
    assert seal.labels == {name: sweep.labels[name] for name in sweep.hidden}
    assert seal.problems == ()
    (entry,) = ledger(sweep)
    assert entry["reason"] == "final analysis as registered"
    assert set(entry["predictions"]) == set(sweep.run_ids())
    assert entry["previous"] is None
    patients = compute(sweep.path).tables.patients
    names = ["architecture", "modality", "part"]
    mine = patients[(patients[names] == ["alpha", "image", "oof"]).all(axis=1)]
    threshold = youden_threshold(mine["label"], mine["score"])
    assert seal.thresholds[("alpha", "image", "youden")] == threshold


def test_each_opening_counts_and_is_chained(sweep):
    for number in range(3):
        unseal(sweep.path, sweep.store, reason=f"reason {number}")
    assert len(seal_of(sweep).openings) == 3
    assert seal_of(sweep).problems == ()
    assert "opened 3 times" in render(compute(sweep.path))


def test_a_changed_or_missing_line_shows(sweep):
    for number in range(3):
        unseal(sweep.path, sweep.store, reason=f"reason {number}")
    path = sweep.path / "unsealed.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0].replace("reason 0", "reason x"), *lines[1:]]))
    assert seal_of(sweep).problems == (
        "opening 1 is not as it was written: its line was changed",
        "opening 2 does not follow the line before: a line was changed",
    )
    path.write_text("".join(lines[1:]))
    assert "opening 1 does not follow" in seal_of(sweep).problems[0]
    path.write_text("".join([*lines[:2], lines[2].replace("reason 2", "reason x")]))
    expected = "opening 3 is not as it was written: its line was changed"
    assert seal_of(sweep).problems == (expected,)


def test_a_ledger_that_lost_its_last_line_does_not_fit_the_labels(sweep):
    for number in range(2):
        unseal(sweep.path, sweep.store, reason=f"reason {number}")
    path = sweep.path / "unsealed.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(EvaluationError, match=r"test_labels.parquet must be as recorded"):
        compute(sweep.path)


def edit_listing(sweep, analysis):
    path = sweep.path / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"analysis": analysis}))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (lambda s: s.change(FIRST, lambda t: t.assign(n_items=2)), FIRST),
        (
            lambda s: [s.change(r, lambda t: t.assign(split_sha="e" * 64)) for r in s.run_ids()],
            "the split changed",
        ),
        (
            lambda s: [s.change(r, lambda t: t.assign(store_sha="e" * 64)) for r in s.run_ids()],
            "the store changed",
        ),
        (
            lambda s: edit_listing(s, {"primary": {"modalities": ["video", "image"]}}),
            "the declared analysis in sweep.json changed",
        ),
        (lambda s: (s.path / "thresholds.json").write_text("[]"), "thresholds.json changed"),
        (lambda s: s.status(FIRST, "failed", "why"), FIRST),
        (lambda s: unseal(s.path, s.store, reason="again"), "opened 2 times"),
    ],
)
def test_what_is_done_after_opening_shows_in_report_terminal_and_exit_code(sweep, edit, named):
    assert seal_of(sweep).sound
    unseal(sweep.path, sweep.store, reason="final analysis")
    assert seal_of(sweep).sound
    edit(sweep)
    result = compute(sweep.path)
    assert result.exit_code == 3
    assert named in " ".join(render(result).split())
    assert named in " ".join(preface(result))


def test_a_prediction_changed_after_an_opening_shows_for_good(sweep):
    unseal(sweep.path, sweep.store, reason="final analysis")
    sweep.change(FIRST, lambda t: t.assign(n_items=2))
    expected = (f"predictions changed or added after an opening: {FIRST}",)
    assert seal_of(sweep).problems == expected
    unseal(sweep.path, sweep.store, reason="again")
    assert seal_of(sweep).problems == expected
    assert expected[0] in " ".join(preface(compute(sweep.path)))


def test_thresholds_are_frozen_at_the_first_opening(sweep):
    unseal(sweep.path, sweep.store, reason="final analysis")
    frozen = seal_of(sweep).thresholds
    path = sweep.path / "thresholds.json"
    sweep.change(
        FIRST, lambda t: t.assign(logit=-t["logit"], probability=1 / (1 + np.exp(t["logit"])))
    )
    unseal(sweep.path, sweep.store, reason="again")
    assert seal_of(sweep).thresholds == frozen
    path.write_text(path.read_text().replace("alpha", "gamma"))
    assert "thresholds.json changed after the first opening" in seal_of(sweep).problems
    path.unlink()
    assert "thresholds.json changed after the first opening" in seal_of(sweep).problems
    assert seal_of(sweep).thresholds == {}


def test_changed_labels_are_not_used(sweep):
    unseal(sweep.path, sweep.store, reason="final analysis")
    path = sweep.path / "test_labels.parquet"
    labels = pd.read_parquet(path)
    labels.assign(label=1 - labels["label"]).to_parquet(path, index=False)
    with pytest.raises(EvaluationError, match=r"test_labels.parquet must be as recorded"):
        compute(sweep.path)
    (sweep.path / "unsealed.jsonl").unlink()
    with pytest.raises(EvaluationError, match=r"must come with unsealed.jsonl, got no record"):
        compute(sweep.path)


def test_an_opening_without_its_labels_is_sealed_but_told(sweep):
    unseal(sweep.path, sweep.store, reason="final analysis")
    (sweep.path / "test_labels.parquet").unlink()
    result = compute(sweep.path)
    assert set(result.tables.test["reason"]) == {"sealed"}
    assert "opened 1 time, last" in render(result)


def test_an_unreadable_ledger_is_refused(sweep):
    (sweep.path / "unsealed.jsonl").write_text('{"time": "now"}\n')
    with pytest.raises(EvaluationError, match=r"unsealed.jsonl must hold one opening a line"):
        seal_of(sweep)


@pytest.mark.parametrize("reason", ["", "  \n"])
def test_no_reason_no_opening(sweep, reason):
    with pytest.raises(EvaluationError, match="reason must be a sentence"):
        unseal(sweep.path, sweep.store, reason=reason)
    assert not (sweep.path / "unsealed.jsonl").exists()


def edit_store(sweep, edit):
    path = sweep.store / "cohort.parquet"
    edit(pd.read_parquet(path)).to_parquet(path, index=False)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.assign(label=1 - t["label"]), "store must be the one the sweep was run on"),
        (lambda t: t.iloc[1:], "store must be the one the sweep was run on"),
        (
            lambda t: t.assign(patient_id=t["patient_id"][::-1].to_numpy()),
            "store must be the one the sweep was run on",
        ),
        (
            lambda t: t.assign(label=t["label"].mask(t["patient_id"] == "p045")),
            "one label 0 or 1 for each hold-out patient, got 10 patients, 1 of them without",
        ),
    ],
)
def test_another_store_is_refused_and_nothing_is_opened(sweep, edit, message):
    edit_store(sweep, edit)
    with pytest.raises(EvaluationError, match=message):
        unseal(sweep.path, sweep.store, reason="final analysis")
    assert not list(sweep.path.glob("*sealed*"))
    assert not (sweep.path / "test_labels.parquet").exists()


def test_a_missing_cohort_is_refused(sweep):
    (sweep.store / "cohort.parquet").unlink()
    with pytest.raises(EvaluationError, match=r"cohort.parquet must exist .*ceus prepare"):
        unseal(sweep.path, sweep.store, reason="final analysis")
    (sweep.path / "cohort.parquet").unlink()
    with pytest.raises(EvaluationError, match=r"cohort.parquet must exist .*sweep writes it"):
        unseal(sweep.path, sweep.store, reason="final analysis")

"""The seal is of the hold-out: whatever is done to a sweep's folder, the store's ledger tells."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.ledger import LEDGER, enter, read_ledger
from evaluation import EvaluationError, compute, evaluate, render, unseal
from evaluation.remembered import remember, remembered
from evaluation.text.sentences import preface, seal_sentences

RECORDS = ("unsealed.jsonl", "thresholds.json", "test_labels.parquet")
NO_OPENING = "its store's ledger has no opening"


@pytest.fixture
def sweep(sweep_maker, tmp_path):
    return sweep_maker(tmp_path / "trial", architectures=("alpha",), modalities=("image",)).write()


@pytest.fixture
def begun(sweep):
    return sweep.begin()


def told(folder: Path, **options) -> tuple[int, str]:
    """Exit code, and what terminal and report's preface both say."""
    result = compute(folder, **options)
    printed = " ".join(render(result).split())
    assert all(sentence in printed for sentence in seal_sentences(result))
    return result.exit_code, " ".join(preface(result))


def opened_copy(sweep) -> Path:
    copy = Path(shutil.copytree(sweep.path, sweep.path.with_name("copy")))
    unseal(copy, sweep.store, reason="only a look")
    return copy


def test_a_sealed_sweep_says_what_was_looked_at(begun):
    code, said = told(begun.path)
    assert code == 0
    assert NO_OPENING in said
    assert "out of reach" not in said


def test_one_opening_is_sound_here_and_in_a_copy_made_since(begun):
    unseal(begun.path, begun.store, reason="final analysis")
    copy = shutil.copytree(begun.path, begun.path.with_name("copy"))
    for folder in (begun.path, copy):
        code, said = told(folder)
        assert code == 0
        assert "opened 1 time" in said


def test_a_copy_that_is_opened_opens_the_original(begun):
    opened_copy(begun)
    code, said = told(begun.path)
    assert code == 3
    assert "opened 1 time" in said
    assert "opened by this sweep or a copy of it on" in said
    assert "(10 of these patients; only a look), which is not recorded in this folder" in said
    unseal(begun.path, begun.store, reason="final analysis")
    code, said = told(begun.path)
    assert code == 3
    assert "opened 2 times" in said


def test_a_copy_of_sweep_and_store_opens_the_original(begun, tmp_path):
    copy = shutil.copytree(begun.path, tmp_path / "elsewhere" / "trial")
    store = shutil.copytree(begun.store, tmp_path / "elsewhere" / "store")
    unseal(copy, store, reason="only a look")
    assert told(begun.path)[0] == 3
    assert told(copy, store=store)[0] == 0  # of which it is the one opening


def test_deleting_the_records_seals_nothing(begun):
    unseal(begun.path, begun.store, reason="only a look")
    for name in RECORDS:
        (begun.path / name).unlink()
    code, said = told(begun.path)
    assert code == 3
    assert "opened 1 time" in said
    assert "their labels are not in this folder" in said


def test_putting_the_first_records_back_takes_no_opening_away(begun, tmp_path):
    unseal(begun.path, begun.store, reason="first")
    for name in RECORDS:
        shutil.copy(begun.path / name, tmp_path)
    unseal(begun.path, begun.store, reason="second")
    for name in RECORDS:
        shutil.copy(tmp_path / name, begun.path)
    code, said = told(begun.path)
    assert code == 3
    assert "opened 2 times" in said
    assert "second), which is not recorded in this folder" in said


def test_a_second_sweep_over_the_same_holdout_is_told(begun):
    unseal(begun.path, begun.store, reason="final analysis")
    other = Path(shutil.copytree(begun.path, begun.path.with_name("other")))
    for name in RECORDS:
        (other / name).unlink()
    replace(begun, path=other, entries=[]).begin()
    code, said = told(other)
    assert code == 3
    assert "opened by sweep trial on" in said
    code, said = told(begun.path)
    assert code == 0  # the second one did not open it
    result = compute(begun.path)
    assert [row["what"] for row in result.seal.holdout.history] == ["sweep", "sweep"]


def test_a_holdout_that_shares_patients_counts_by_them(begun):
    enter(begun.store, "opening", [*begun.hidden[:4], "another"], name="larger", reason="look")
    enter(begun.store, "opening", begun.development[:4], name="foreign", reason="look")
    code, said = told(begun.path)
    assert code == 3
    assert "opened 1 time" in said
    assert "opened by sweep larger on" in said
    assert "(4 of these patients; look)" in said


@pytest.mark.parametrize("reason", ["", "a pilot"])
def test_training_on_an_earlier_holdout_is_told(sweep, reason):
    enter(sweep.store, "split", sweep.development[:7], name="first", split_sha="f" * 64)
    marked = {"overlap_reason": reason} if reason else {}
    enter(sweep.store, "split", sweep.hidden, name="default", split_sha="a" * 64, **marked)
    enter(sweep.store, "split", sweep.development, name="later", split_sha="e" * 64)
    code, said = told(sweep.begin().path)
    assert code == (0 if reason else 3)
    assert "7 patients of an earlier hold-out are trained on" in said
    assert (f"trained on: {reason}." if reason else "and no reason was recorded") in said


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_analysis_edited_after_training_is_named(begun):
    rewrite(begun.path / "sweep.json", analysis={"sensitivity": 0.95})
    code, said = told(begun.path)
    assert code == 3
    assert "The declared analysis in sweep.json is not the one with which these runs began" in said
    assert "the declared analysis is not the one entered when the sweep began" in said
    # The runs alone, where the store is out of reach.
    shutil.rmtree(begun.store)
    code, said = told(begun.path)
    assert code == 3
    assert f"these runs began: {', '.join(sorted(begun.run_ids()))}." in said


def test_an_opening_waits_for_all_runs(begun):
    begun.status(begun.run_ids()[-1], "pending")
    with pytest.raises(EvaluationError, match=r"got 1 of 2 that are not .* pending.*--unfinished"):
        unseal(begun.path, begun.store, reason="final analysis")
    assert not [name for name in RECORDS if (begun.path / name).exists()]
    assert not read_ledger(begun.store).of("opening")
    unseal(begun.path, begun.store, reason="final analysis", unfinished=True)
    assert "opened while 1 run of this sweep" in told(begun.path)[1]
    assert read_ledger(begun.store).of("opening")[0]["unfinished"] == 1


def test_a_store_out_of_reach_is_said(begun, tmp_path):
    moved = begun.store.rename(tmp_path / "moved")
    code, said = told(begun.path)
    assert code == 0
    assert "No opening is recorded here." in said
    assert "ledger of its store is out of reach" in said
    assert NO_OPENING in told(begun.path, store=moved)[1]
    unseal(begun.path, moved, reason="final analysis")
    assert told(begun.path, store=moved)[0] == 0
    with pytest.raises(EvaluationError, match="store must be a folder, got none"):
        compute(begun.path, store=tmp_path / "none")


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (cut, "opening 1 is not in the ledger of the store: it was put back"),
        (lambda path: [cut(path), cut(path)], "the ledger of the store lacks the entry of this"),
        (Path.unlink, "ledger.jsonl of the store is gone, in which this sweep was entered"),
        (
            lambda p: p.write_text(p.read_text().replace("final", "pilot")),
            "line 3 is not as it was",
        ),
        (lambda p: p.write_text(p.read_text().replace('"key": "', '"key": "0')), "line 1 is not"),
    ],
)
def test_a_ledger_that_was_changed_shows(begun, edit, named):
    unseal(begun.path, begun.store, reason="final analysis")
    edit(begun.store / LEDGER)
    code, said = told(begun.path)
    assert code == 3
    assert named in said


def test_a_head_that_was_lodged_elsewhere_finds_a_ledger_put_back(begun):
    ledger = begun.store / LEDGER
    before, head = ledger.read_bytes(), read_ledger(begun.store).head
    assert f"Ledger head: {head}" in render(compute(begun.path)).splitlines()
    opened_copy(begun)
    later = read_ledger(begun.store).head
    assert told(begun.path, head=f" {head.upper()}\n")[0] == 3  # for the copy was opened
    ledger.write_bytes(before)
    assert told(begun.path, head=head)[0] == 0
    code, said = told(begun.path, head=later)
    assert code == 3
    assert f"the ledger of the store lacks the head {later[:16]}… that was lodged elsewhere" in said
    shutil.rmtree(begun.store)
    with pytest.raises(EvaluationError, match=r"store must be within reach .*--store STORE"):
        compute(begun.path, head=head)


def test_sweeps_older_than_the_ledger_are_evaluated_and_say_so(sweep):
    code, said = told(sweep.path)
    assert code == 0
    assert "No opening is recorded here" in said
    assert "2 runs did not record which analysis was declared" in said
    for run_id in sweep.run_ids():
        text = json.dumps({"study": {"store": str(sweep.store)}, "trainer": {}})
        (sweep.path / run_id / "config.yaml").write_text(text)
    enter(sweep.store, "split", sweep.hidden, name="default", split_sha="a" * 64)
    code, said = told(sweep.path)
    assert code == 0
    assert "this sweep began before its store kept a ledger" in said
    opened_copy(sweep)
    assert told(sweep.path)[0] == 3


def test_a_ledger_that_cannot_be_written_opens_nothing(begun):
    if os.geteuid() == 0:
        (begun.store / LEDGER).unlink()
        (begun.store / LEDGER).mkdir()  # what not even root can write
    else:
        (begun.store / LEDGER).chmod(0o400)
    with pytest.raises(EvaluationError, match=r"must be entered in the ledger .*ledger.jsonl"):
        unseal(begun.path, begun.store, reason="final analysis")
    assert not (begun.path / "unsealed.jsonl").exists()
    assert not (begun.path / "test_labels.parquet").exists()


def test_what_is_remembered_is_forgotten_when_the_ledger_goes_on(begun):
    result = evaluate(begun.path)
    remember(result, "as printed")
    assert remembered(begun.path) == "as printed"
    enter(begun.store, "sweep", begun.hidden, name="another")
    assert remembered(begun.path) is None


def test_the_report_lists_openings_splits_and_sweeps_of_the_store(begun):
    enter(begun.store, "split", begun.hidden[:4], name="part<ly>", overlap_reason="a pilot")
    opened_copy(begun)
    text = evaluate(begun.path).report.read_text()
    assert "Splits and sweeps of the store" in text
    assert "part&lt;ly&gt;" in text
    assert "a pilot" in text
    assert "only a look" in text
    assert read_ledger(begun.store).head in text

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pandas as pd
import pytest

from datamodules import DataError, load_split, make_split
from datamodules.ledger import LEDGER, read_ledger
from datamodules.store.folder import STORE_FORMAT


def write_table(folder: Path, labels: dict[str, int], split: dict[str, str] | None = None) -> Path:
    """The part of a store that splits look at: two rows a patient."""
    folder.mkdir(exist_ok=True)
    (folder / "store.json").write_text(json.dumps({"format": STORE_FORMAT, "canvas": 32}))
    rows = [
        {
            "item_id": f"{patient}-{modality}",
            "patient_id": patient,
            "label": label,
            "modality": modality,
            "split": (split or {}).get(patient, ""),
        }
        for patient, label in labels.items()
        for modality in ("image", "ceus")
    ]
    pd.DataFrame(rows).to_parquet(folder / "cohort.parquet")
    return folder


def cohort(negatives: int, positives: int) -> dict[str, int]:
    return {f"p{i:03d}": int(i < positives) for i in range(negatives + positives)}


def count(patients: tuple[str, ...], labels: dict[str, int]) -> tuple[int, int]:
    positives = sum(labels[p] for p in patients)
    return len(patients) - positives, positives


def rewrite(path: Path, **changes: object) -> None:
    """Edit a split file and give it a hash that fits."""
    content = json.loads(path.read_text()) | changes
    content.pop("sha")
    sha = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content | {"sha": sha}))


@pytest.mark.parametrize(
    ("negatives", "positives", "num_folds"), [(314, 82, 5), (23, 11, 2), (7, 7, 3), (40, 8, 5)]
)
def test_each_fold_lists_every_patient_once_and_is_stratified(
    tmp_path: Path, negatives: int, positives: int, num_folds: int
) -> None:
    labels = cohort(negatives, positives)
    store = write_table(tmp_path / "store", labels)
    make_split(store, num_folds=num_folds)
    split = load_split(store, "default")
    assert len(split.folds) == num_folds
    development = set(labels) - set(split.holdout)
    assert sorted(p for fold in split.folds for p in fold.oof) == sorted(development)
    oof = [count(fold.oof, labels) for fold in split.folds]
    assert max(n for n, _ in oof) - min(n for n, _ in oof) <= 1
    assert max(p for _, p in oof) - min(p for _, p in oof) <= 1
    assert max(map(sum, oof)) - min(map(sum, oof)) <= 1
    for fold in (*range(num_folds), "all"):
        parts = split.parts(fold)
        assert list(parts) == ["train", "inner_val", *(["oof"] if fold != "all" else []), "test"]
        for one, other in combinations(parts.values(), 2):
            assert not set(one) & set(other)
        assert sorted(p for part in parts.values() for p in part) == sorted(labels)
        assert all(min(count(part, labels)) >= 1 for part in parts.values())
        train, inner = count(parts["train"], labels), count(parts["inner_val"], labels)
        for label in (0, 1):
            expected = 0.2 * (train[label] + inner[label])
            assert abs(inner[label] - expected) <= 0.5 or inner[label] == 1


def test_holdout_of_the_reference_cohort_has_its_size(tmp_path: Path) -> None:
    labels = cohort(314, 82)
    store = write_table(tmp_path / "store", labels)
    make_split(store)
    assert count(load_split(store, "default").holdout, labels) == (92, 24)


def test_split_is_frozen_and_repeatable(tmp_path: Path) -> None:
    labels = cohort(30, 10)
    store = write_table(tmp_path / "store", labels)
    path = make_split(store, num_folds=3, seed=4)
    content = path.read_bytes()
    assert make_split(store, num_folds=3, seed=4) == path
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == ["default.json"]
    # The order of the table's rows is of no account, the seed is.
    other = write_table(tmp_path / "other", dict(reversed(labels.items())))
    assert make_split(other, num_folds=3, seed=4).read_bytes() == content
    third = write_table(tmp_path / "third", labels)
    make_split(third, num_folds=3, seed=5)
    assert load_split(third, "default").folds != load_split(store, "default").folds


def test_the_column_fixes_the_holdout_and_sealed_labels_are_not_read(tmp_path: Path) -> None:
    labels = cohort(20, 10)
    side = {p: "test" if i % 3 == 0 else "train" for i, p in enumerate(labels)}
    store = write_table(tmp_path / "store", labels, side)
    make_split(store, num_folds=2)
    split = load_split(store, "default")
    assert set(split.holdout) == {p for p, s in side.items() if s == "test"}
    flipped = {p: 1 - y if side[p] == "test" else y for p, y in labels.items()}
    write_table(store, flipped, side)
    assert load_split(store, "default") == split
    assert make_split(store, num_folds=2, holdout_fraction=0.1).is_file()


def test_who_was_held_out_once_is_not_trained_on_without_a_reason(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    make_split(store, num_folds=3)
    make_split(store, name="folds", num_folds=2)  # the same hold-out
    first = load_split(store, "default").holdout
    match = r"held out once must not be trained on, got \d of split 'default' .*--overlap-reason"
    with pytest.raises(DataError, match=match):
        make_split(store, name="b", seed=1)
    for path in store.glob("splits/*.json"):  # the ledger remembers them
        path.unlink()
    with pytest.raises(DataError, match=match):
        make_split(store, name="b", seed=1)
    make_split(store, name="b", seed=1, overlap_reason="another\nstudy")
    made = load_split(store, "b")
    assert made.overlap_reason == "another study"
    assert set(first) & set(made.all.train)
    ledger = read_ledger(store)
    assert ledger
    assert [entry["name"] for entry in ledger.of("split")] == ["default", "folds", "b"]
    assert ledger.of("split")[-1]["overlap_reason"] == "another study"


def test_a_larger_holdout_trains_on_nobody_held_out(tmp_path: Path) -> None:
    labels = cohort(30, 10)
    store = write_table(tmp_path / "store", labels)
    make_split(store, num_folds=2)
    more = {*load_split(store, "default").holdout, *list(labels)[-6:]}
    write_table(store, labels, {p: "test" if p in more else "train" for p in labels})
    make_split(store, name="more", num_folds=2, overlap_reason="none is needed")
    assert load_split(store, "more").overlap_reason == ""
    fewer = sorted(more)[1:]
    write_table(store, labels, {p: "test" if p in fewer else "train" for p in labels})
    with pytest.raises(DataError, match="got 1 of split"):
        make_split(store, name="fewer", num_folds=2)


def test_splits_older_than_the_ledger_count_and_are_entered(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    make_split(store, num_folds=3)
    (store / LEDGER).unlink()
    with pytest.raises(DataError, match=r"got \d of split 'default' in the development"):
        make_split(store, name="b", seed=1)
    assert read_ledger(store) is None
    for _ in range(2):
        make_split(store, num_folds=3)
        ledger = read_ledger(store)
        assert ledger
        assert [entry["name"] for entry in ledger.of("split")] == ["default"]


def test_a_ledger_that_was_changed_lets_nobody_be_trained_on(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    make_split(store, num_folds=3).unlink()
    path = store / LEDGER
    path.write_text(path.read_text().replace('"key": "', '"key": "0'))
    with pytest.raises(DataError, match=r"the store's ledger \(line 1 is not as it was written"):
        make_split(store, name="b", seed=1)


@pytest.mark.parametrize(
    ("side", "match"),
    [
        ({"p000": "test"}, r"split must be 'train' or 'test'.* got \[''\] \(patient p001; 29"),
        (dict.fromkeys(cohort(20, 10), "train"), "split must be 'test' for some patients"),
    ],
)
def test_unusable_split_column(tmp_path: Path, side: dict[str, str], match: str) -> None:
    store = write_table(tmp_path / "store", cohort(20, 10), side)
    with pytest.raises(DataError, match=match):
        make_split(store, num_folds=2)


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    labels = cohort(20, 10)
    store = write_table(tmp_path / "store", labels, dict.fromkeys(labels, "train"))
    table = pd.read_parquet(store / "cohort.parquet")
    table.loc[0, "split"] = "test"
    table.to_parquet(store / "cohort.parquet")
    with pytest.raises(DataError, match=r"same in all rows.*\['test', 'train'\] \(patient p000"):
        make_split(store)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"num_folds": 1}, "num_folds must be 2 or more, got 1"),
        ({"seed": -1}, "split seed must be 0 or more, got -1"),
        ({"holdout_fraction": 1.0}, r"holdout_fraction must be between 0 and 1, got 1\.0"),
        ({"name": "../a"}, r"split name must be of letters.*got '\.\./a'"),
        ({"num_folds": 9}, "label 1 outside the hold-out must be 9 or more.*got 7: 2 lacking"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, settings: dict[str, object], match: str) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    with pytest.raises(DataError, match=match):
        make_split(store, **settings)  # type: ignore[arg-type]
    assert not list(store.glob("splits/*"))


@pytest.mark.parametrize(("num_folds", "fewest"), [(2, 4), (3, 3), (5, 5)])
def test_the_fewest_patients_of_a_class(tmp_path: Path, num_folds: int, fewest: int) -> None:
    def store(positives: int) -> Path:
        labels = cohort(20, positives + 1)
        side = {p: "test" if p in ("p000", "p020") else "train" for p in labels}
        return write_table(tmp_path / str(positives), labels, side)

    make_split(store(fewest), num_folds=num_folds)
    with pytest.raises(DataError, match=f"must be {fewest} or more.* 1 lacking.*fewer folds"):
        make_split(store(fewest - 1), num_folds=num_folds)


@pytest.mark.parametrize("fold", [3, -1, True, "1"])
def test_fold_out_of_range_names_the_folds(tmp_path: Path, fold: object) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    make_split(store, num_folds=3)
    with pytest.raises(DataError, match=r"fold must be 0 to 2 or 'all', got .*num_folds = 3"):
        load_split(store, "default").parts(fold)  # type: ignore[arg-type]


def test_other_settings_under_the_same_name_are_refused(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    make_split(store, num_folds=3)
    for settings in ({"num_folds": 4}, {"num_folds": 3, "seed": 1}):
        with pytest.raises(DataError, match=r"split 'default' is frozen with .*another name"):
            make_split(store, **settings)  # type: ignore[arg-type]


def test_missing_split_names_those_there_are(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    with pytest.raises(DataError, match=r"splits \(none\), got 'study'"):
        load_split(store, "study")
    make_split(store, name="b")
    with pytest.raises(DataError, match=r"splits \(b\), got 'study'"):
        load_split(store, "study")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"sha": 1}', '{"sha": 1, "name": "b", "holdout": 3}', "\udcff"]
)
def test_damaged_file(tmp_path: Path, text: str) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    path = make_split(store)
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=r"split file .* is damaged"):
        load_split(store, "default")


def test_edited_or_renamed_file(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    path = make_split(store)
    path.with_name("other.json").write_bytes(path.read_bytes())
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    for name in ("default", "other"):
        with pytest.raises(DataError, match="was changed after it was frozen"):
            load_split(store, name)


def test_a_leak_is_refused_even_with_a_fitting_hash(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 10))
    path = make_split(store, num_folds=2)
    folds = json.loads(path.read_text())["folds"]
    leaked = folds[1]["oof"][0]
    folds[1]["train"].append(leaked)
    rewrite(path, folds=folds)
    with pytest.raises(DataError, match=rf"fold 1 .* once, got \['{leaked}'\] twice"):
        load_split(store, "default")
    folds[1]["train"].remove(leaked)
    folds[1]["oof"].remove(leaked)
    rewrite(path, folds=folds)
    with pytest.raises(DataError, match=rf"fold 1 .* once, got \['{leaked}'\] nowhere"):
        load_split(store, "default")


def test_a_changed_store_is_noticed(tmp_path: Path) -> None:
    labels = cohort(30, 10)
    store = write_table(tmp_path / "store", labels)
    make_split(store)
    patient = load_split(store, "default").all.train[0]
    write_table(store, labels | {"new": 0})
    with pytest.raises(DataError, match=r"1 new \['new'\] and 0 gone \[\].*new name"):
        load_split(store, "default")
    write_table(store, {p: y for p, y in labels.items() if p != patient})
    with pytest.raises(DataError, match=rf"0 new \[\] and 1 gone \['{patient}'\]"):
        make_split(store)
    write_table(store, labels | {patient: 1 - labels[patient]})
    with pytest.raises(DataError, match=r"labels of the store .* others for some patients"):
        load_split(store, "default")


def test_the_command_line_pays_neither_torch_nor_lightning_for_it() -> None:
    code = (
        "import sys, datamodules.store.splits, datamodules.store.folder; "
        "import datamodules.batches.sampling; "
        "assert not {'torch', 'lightning'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_repeats_deal_the_same_patients_anew_and_leave_the_first_partition(tmp_path: Path) -> None:
    labels = cohort(40, 15)
    store = write_table(tmp_path / "store", labels)
    make_split(store, num_folds=3)
    make_split(store, name="again", num_folds=3, repeats=3)
    once, again = load_split(store, "default"), load_split(store, "again")
    assert (again.folds, again.all, again.holdout) == (once.folds, once.all, once.holdout)
    assert again.scheme == once.scheme | {"repeats": 3}
    assert len(again.further) == 2
    development = sorted(set(labels) - set(again.holdout))
    partitions = set()
    for repeat in range(3):
        scored = []
        for fold in range(3):
            parts = again.parts(fold, repeat)
            assert sorted(p for part in parts.values() for p in part) == sorted(labels)
            assert all(min(count(part, labels)) >= 1 for part in parts.values())
            assert parts["test"] == again.holdout
            scored += parts["oof"]
        assert sorted(scored) == development
        partitions.add(tuple(again.parts(0, repeat)["oof"]))
    assert len(partitions) == 3
    assert again.parts("all", 0) == again.parts("all", 2)
    with pytest.raises(DataError, match=r"repeat must be 0 to 2, got 3 .*--repeats"):
        again.parts(0, 3)
    with pytest.raises(DataError, match=r"repeats must be 1 or more, .*got 0"):
        make_split(store, name="none", repeats=0)
    with pytest.raises(DataError, match=r"is frozen with .*'repeats': 3"):
        make_split(store, name="again", num_folds=3, repeats=2)


def test_a_patient_twice_in_a_further_partition_is_refused(tmp_path: Path) -> None:
    path = make_split(write_table(tmp_path / "store", cohort(20, 9)), num_folds=2, repeats=2)
    content = json.loads(path.read_text())
    folds = content["further"][0]
    folds[1]["train"].append(folds[1]["oof"][0])
    rewrite(path, further=content["further"])
    with pytest.raises(DataError, match=r"fold 1 of repeat 1 .* must list every patient once"):
        load_split(tmp_path / "store", "default")


def with_centres(store: Path, centre_of: dict[str, str | None]) -> Path:
    table = pd.read_parquet(store / "cohort.parquet")
    table["centre"] = table["patient_id"].map(centre_of)
    table.to_parquet(store / "cohort.parquet")
    return store


def test_a_fold_is_a_centre(tmp_path: Path) -> None:
    labels = cohort(60, 24)
    centre_of = {p: ("north", "south", "west")[int(p[1:]) % 3] for p in labels}
    store = with_centres(write_table(tmp_path / "store", labels), centre_of)
    path = make_split(store, scheme="centre")
    split = load_split(store, "default")
    assert split.scheme["num_folds"] == 3
    assert split.scheme["centres"] == ["north", "south", "west"]
    for fold, centre in enumerate(split.scheme["centres"]):
        parts = split.parts(fold)
        assert {centre_of[p] for p in parts["oof"]} == {centre}
        assert centre not in {centre_of[p] for p in (*parts["train"], *parts["inner_val"])}
        assert min(count(parts["inner_val"], labels)) >= 1
    assert make_split(store, scheme="centre") == path
    with pytest.raises(DataError, match="repeats must be 1 or more, and 1 where a fold is a cent"):
        make_split(store, name="more", scheme="centre", repeats=2)
    with pytest.raises(DataError, match="num_folds must be left out"):
        make_split(store, name="six", scheme="centre", num_folds=6)


@pytest.mark.parametrize(
    ("centre", "match"),
    [
        (lambda _: "one", r"centres must be 2 or more .*got 1 .*--scheme patient"),
        (lambda i: "a" if i < 9 else "b", r"both labels .*got 0 and \d+ of label 0 \(centre 'a'"),
        (lambda i: None if i == 3 else "ab"[i % 2], r"centre must be filled.*patient p003; 1 such"),
        (lambda i: " " if i == 3 else "ab"[i % 2], r"centre must be filled.*patient p003; 1 such"),
    ],
)
def test_centres_that_cannot_be_left_out(
    tmp_path: Path, centre: Callable[[int], str | None], match: str
) -> None:
    labels = cohort(30, 12)
    centre_of = {p: centre(int(p[1:])) for p in labels}
    store = with_centres(write_table(tmp_path / "store", labels), centre_of)
    with pytest.raises(DataError, match=match):
        make_split(store, scheme="centre")


def test_a_store_without_centres_says_how_to_have_them(tmp_path: Path) -> None:
    store = write_table(tmp_path / "store", cohort(30, 12))
    with pytest.raises(DataError, match=r"must have kept the column 'centre'.*--covariates centre"):
        make_split(store, scheme="centre")

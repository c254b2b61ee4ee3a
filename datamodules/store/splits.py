"""Who trains, who watches, who is scored: patient-level splits, frozen in a file.

First a hold-out (sealed until the end of the study), then k folds over the other patients; inside
each fold 20 % of the training patients are set aside to watch training (inner validation). All is
by patient, stratified by label, and the same for every architecture, modality and training seed.
A split may hold several such partitions of the same patients (repeats): their spread is what the
draw of folds, and training again, change. Or each fold is a centre, left out of training.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from datamodules.errors import DataError
from datamodules.files import storing, write_atomic
from datamodules.ledger import LEDGER, Ledger, enter, read_ledger
from datamodules.names import RULE, is_name
from datamodules.store.centres import centres_of, deal_by_centre
from datamodules.store.deal import deal, require_enough, stratified_share
from datamodules.store.folder import Store

FORMAT = 1
INNER_FRACTION = 0.2
_REMAKE = "Put the original file back, or make a split under a new name."
REFERENCE_HOLDOUT = 116 / 396
"""Share of the patients that the reference study (doi 10.3389/fendo.2025.1634875) held out."""


@dataclass(frozen=True)
class Fold:
    """The patients of one fold.

    Attributes:
        train: Patients that the weights are fitted to.
        inner_val: Patients that early stopping and the choice of checkpoint watch.
        oof: Patients scored once, after training (out of fold). Empty for `all`.
    """

    train: tuple[str, ...]
    inner_val: tuple[str, ...]
    oof: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """A frozen split of a store's patients.

    Attributes:
        name: Name of the file, without ending.
        scheme: How it was made: number of folds, and how the hold-out was chosen.
        seed: Seed of the permutations.
        sha: SHA-256 of the file's content, in hex.
        holdout: The sealed test patients.
        folds: The folds, over all patients outside the hold-out.
        further: Further partitions of the same patients into as many folds, from repeat 1 on.
        all: Training on every patient outside the hold-out, less an inner validation part.
        overlap_reason: Why patients of an earlier hold-out are trained on; "" where none is.
    """

    name: str
    scheme: dict[str, Any]
    seed: int
    sha: str
    holdout: tuple[str, ...]
    folds: tuple[Fold, ...]
    all: Fold
    further: tuple[tuple[Fold, ...], ...] = ()
    overlap_reason: str = ""

    def parts(self, fold: int | Literal["all"], repeat: int = 0) -> dict[str, tuple[str, ...]]:
        """Patients of `train`, `inner_val`, `oof` (absent for `all`) and `test`.

        Args:
            fold: 0 to `num_folds - 1`, or `"all"`.
            repeat: Which partition, from 0; `all` is the same in each.

        Raises:
            DataError: If there is no such fold or partition.
        """
        if fold == "all":
            return {"train": self.all.train, "inner_val": self.all.inner_val, "test": self.holdout}
        if type(fold) is not int or not 0 <= fold < len(self.folds):
            raise DataError(
                f"fold must be 0 to {len(self.folds) - 1} or 'all', got {fold!r} "
                f"(split {self.name!r} has num_folds = {len(self.folds)}). "
                "Choose one of these, or make another split with more folds under a new name."
            )
        if type(repeat) is not int or not 0 <= repeat <= len(self.further):
            raise DataError(
                f"repeat must be 0 to {len(self.further)}, got {repeat!r} (split {self.name!r} has "
                f"repeats = {1 + len(self.further)}). Choose one of these, or make a split with "
                "more under a new name: ceus split --repeats N --name NAME."
            )
        return {**vars((self.folds, *self.further)[repeat][fold]), "test": self.holdout}


def make_split(
    store: Path,
    *,
    name: str = "default",
    scheme: Literal["patient", "centre"] = "patient",
    num_folds: int | None = None,
    repeats: int = 1,
    seed: int = 0,
    holdout_fraction: float = REFERENCE_HOLDOUT,
    overlap_reason: str = "",
) -> Path:
    """Split the store's patients and freeze the result in `store/splits/NAME.json`.

    The hold-out is entered in the store's ledger: what was held out once is not trained on later,
    unless a reason is given, which then stands in ledger and split file.

    A `split` column in the cohort fixes the hold-out; `holdout_fraction` is then not used, and
    the labels of its test patients are not read. Called again with the same settings on the same
    store it does nothing.

    Args:
        store: A prepared store.
        name: Name of the split: letters, digits, `.`, `_` and `-`, at most 64.
        scheme: What a fold is: patients dealt at random, or a centre, left out of training; that
            is the kept column `centre` of the cohort, and takes no number of folds.
        num_folds: Number of folds, 2 or more; None for 5, or one a centre.
        repeats: How often the development patients are dealt into folds anew, 1 or more; the first
            partition is the same whatever their number.
        seed: Seed of the permutations, 0 or more.
        holdout_fraction: Share of each class that is held out, in (0, 1).
        overlap_reason: Why patients whom an earlier split of this store held out may be trained on;
            recorded for good.

    Returns:
        The split file.

    Raises:
        DataError: If a setting is out of range, a class has too few patients, the cohort's
            `split` or `centre` column is not usable, a split of this name exists and differs,
            patients of an earlier hold-out would be trained on without a reason, or the store's
            ledger cannot be read or written.
    """
    overlap_reason = " ".join(overlap_reason.split())
    _check_settings(scheme, num_folds, repeats, seed, holdout_fraction)
    num_folds = num_folds or 5
    path = _file(store, name)
    table = Store(store)
    patients = sorted(set(table.items["patient_id"]))
    holdout = _fixed_holdout(table)
    centres = centres_of(table) if scheme == "centre" else {}
    drawn: dict[str, Any] = {
        "num_folds": len(set(centres.values())) or num_folds,
        "holdout": "column 'split'" if holdout is not None else f"fraction {holdout_fraction:.6f}",
        "inner_fraction": INNER_FRACTION,
    }
    if centres:
        drawn["centres"] = sorted(set(centres.values()))
    if repeats > 1:
        drawn["repeats"] = repeats
    if path.exists():
        frozen = load_split(store, name)
        if (frozen.scheme, frozen.seed) != (drawn, seed):
            raise DataError(
                f"split {name!r} is frozen with {frozen.scheme}, seed {frozen.seed}; "
                f"asked for {drawn}, seed {seed} ({path}). Choose another name for a new split."
            )
        _record(store, frozen.name, frozen.sha, frozen.holdout, frozen.overlap_reason)
        return path
    labels = table.labels
    if holdout is None:
        holdout = stratified_share(patients, labels, holdout_fraction, seed=(seed, 0))
    development = sorted(set(patients) - set(holdout))
    if centres:
        partitions = [deal_by_centre(development, labels, centres, where=store)]
    else:
        require_enough(development, labels, num_folds=num_folds, where=store)
        draws = [(seed, 1), *((seed, 4, repeat) for repeat in range(1, repeats))]
        partitions = [deal(development, labels, num_folds, seed=draw) for draw in draws]
    overlapping = _held_out_before(store, development)
    if overlapping and not overlap_reason:
        first, count = next(iter(overlapping.items()))
        raise DataError(
            f"patients that were held out once must not be trained on, got {count} of {first} in "
            f"the development part ({path}). Hold them out again: the same seed and share, or a "
            "column 'split' in cohort.csv. Else say why: ceus split --overlap-reason TEXT, which "
            "marks the split for good."
        )

    def fold(oof: tuple[str, ...], *draw: int) -> Fold:
        fitted = sorted(set(development) - set(oof))
        inner_val = stratified_share(fitted, labels, INNER_FRACTION, seed=(seed, *draw))
        return Fold(tuple(sorted(set(fitted) - set(inner_val))), tuple(inner_val), oof)

    everyone = fold((), 3)
    content = {
        "format": FORMAT,
        "name": name,
        "scheme": drawn,
        "seed": seed,
        "cohort_sha": _cohort_sha(table, development),
        "holdout": sorted(holdout),
        "folds": [asdict(fold(oof, 2, k)) for k, oof in enumerate(partitions[0])],
        "all": {"train": everyone.train, "inner_val": everyone.inner_val},
    }
    if repeats > 1:
        content["further"] = [
            [asdict(fold(oof, 5, repeat, k)) for k, oof in enumerate(partitions[repeat])]
            for repeat in range(1, repeats)
        ]
    if overlapping:
        content["overlap_reason"] = overlap_reason
    sha = _sha(content)
    _record(store, name, sha, holdout, overlap_reason if overlapping else "")
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(content | {"sha": sha}, indent=1))
    return path


def load_split(store: Path, name: str) -> Split:
    """Read a split and check it: its own hash, that no patient leaks, that it is of this store.

    Args:
        store: A prepared store.
        name: Name of the split.

    Raises:
        DataError: If it is missing, was edited, puts a patient into two parts, or the store's
            patients or labels have changed since (labels of the hold-out are not looked at).
    """
    path = _file(store, name)
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in path.parent.glob("*.json"))) or "none"
        raise DataError(
            f"split must be one of the store's splits ({names}), got {name!r} ({path}). "
            "Make it with `ceus split`."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sha = content.pop("sha")
        split = Split(
            name=content["name"],
            scheme=content["scheme"],
            seed=content["seed"],
            sha=sha,
            holdout=tuple(content["holdout"]),
            folds=tuple(_fold_from(fold) for fold in content["folds"]),
            all=_fold_from(content["all"]),
            further=tuple(
                tuple(_fold_from(fold) for fold in folds) for folds in content.get("further", ())
            ),
            overlap_reason=content.get("overlap_reason", ""),
        )
        intact = sha == _sha(content) and content["format"] == FORMAT and split.name == name
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"split file {path} is damaged: {error!r}. {_REMAKE}") from error
    if not intact:
        raise DataError(
            f"split file {path} was changed after it was frozen: hash, name or format differ. "
            f"{_REMAKE}"
        )
    _require_disjoint(split, path)
    _require_same_cohort(split, Store(store), content["cohort_sha"])
    return split


def _check_settings(
    scheme: str, num_folds: int | None, repeats: int, seed: int, holdout_fraction: float
) -> None:
    if num_folds is not None and scheme == "centre":
        raise DataError(
            f"num_folds must be left out where a fold is a centre, got {num_folds!r}. There are as "
            "many folds as centres."
        )
    if num_folds is not None and num_folds < 2:
        raise DataError(
            f"num_folds must be 2 or more, got {num_folds!r}. Without folds, train with fold=all."
        )
    if repeats < 1 or (repeats > 1 and scheme == "centre"):
        raise DataError(
            f"repeats must be 1 or more, and 1 where a fold is a centre, got {repeats!r} "
            f"(scheme {scheme}). Centres can be left out in one way only."
        )
    if seed < 0:
        raise DataError(f"split seed must be 0 or more, got {seed!r}.")
    if not 0 < holdout_fraction < 1:
        raise DataError(
            f"holdout_fraction must be between 0 and 1, got {holdout_fraction!r}. "
            "Give the share of patients that is sealed as the test set."
        )


def _file(store: Path, name: str) -> Path:
    if not is_name(name):
        raise DataError(f"split name must be {RULE}, got {name[:80]!r}. Rename it.")
    return Path(store) / "splits" / f"{name}.json"


def _fixed_holdout(table: Store) -> list[str] | None:
    """Test patients by the cohort's `split` column; None where it has none or is empty."""
    items = table.items
    if "split" not in items or not (items["split"].fillna("") != "").any():
        return None
    sides: dict[str, set[str]] = {}
    for patient, side in zip(items["patient_id"], items["split"].fillna(""), strict=True):
        sides.setdefault(patient, set()).add(side)
    bad = sorted(p for p, s in sides.items() if s not in ({"train"}, {"test"}))
    if bad:
        raise DataError(
            "split must be 'train' or 'test', and the same in all rows of a patient, got "
            f"{sorted(sides[bad[0]])} (patient {bad[0]}; {len(bad)} such patients). "
            "Fill the column for every row of cohort.csv, or remove it, and prepare again."
        )
    holdout = sorted(p for p, s in sides.items() if s == {"test"})
    if not holdout:
        raise DataError(
            "split must be 'test' for some patients, got 'train' for all "
            f"({table.path}). Mark the hold-out in cohort.csv, or remove the column."
        )
    return holdout


def _ledger_of(store: Path) -> Ledger | None:
    try:
        return read_ledger(store)
    except OSError as error:
        raise DataError(
            f"ledger of the store must be readable, got {error.strerror} "
            f"({Path(store) / LEDGER}). Give yourself the right to read it."
        ) from error


def _held_out_before(store: Path, development: Sequence[str]) -> dict[str, int]:
    """How many of these patients each earlier hold-out has, by what froze it; none without any.

    Of the ledger, which remembers splits whose file is gone, and of the files, which may be older.
    """
    found: dict[str, int] = {}
    ledger = _ledger_of(store)
    if ledger:
        hashes = ledger.hashes(development)
        for entry in ledger.entries:
            name = f"{entry['kind']} {entry.get('name', '')!r} of {entry['time']}"
            found[name] = len(hashes.intersection(entry.get("holdout", ())))
        # What was changed may have named any of them.
        found |= {f"the store's ledger ({p})": len(development) for p in ledger.problems}
    for path in sorted((Path(store) / "splits").glob("*.json")):
        try:
            holdout = json.loads(path.read_text(encoding="utf-8"))["holdout"]
            found[f"split {path.stem!r}"] = len(set(development).intersection(holdout))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # damaged, which whoever uses it is told; the ledger remembers it
    return {name: count for name, count in found.items() if count}


def _record(store: Path, name: str, sha: str, holdout: Iterable[str], reason: str) -> None:
    """Enter a split into the store's ledger, once."""
    ledger = _ledger_of(store)
    if ledger and any(entry.get("split_sha") == sha for entry in ledger.of("split")):
        return
    facts = {"overlap_reason": reason} if reason else {}
    with storing(store, "The ledger of its hold-outs is there."):
        enter(store, "split", holdout, name=name, split_sha=sha, **facts)


def _fold_from(content: dict[str, list[str]]) -> Fold:
    return Fold(**{part: tuple(patients) for part, patients in content.items()})


def _require_disjoint(split: Split, path: Path) -> None:
    everyone = {p for f in (*split.folds, split.all) for p in (*f.train, *f.inner_val, *f.oof)}
    partitions = (split.folds, *split.further)
    named = [(k, repeat) for repeat, folds in enumerate(partitions) for k in range(len(folds))]
    every: list[tuple[int | Literal["all"], int]] = [*named, ("all", 0)]
    for k, repeat in every:
        parts = split.parts(k, repeat)
        listed = Counter(p for patients in parts.values() for p in patients)
        twice = sorted(p for p, count in listed.items() if count > 1)
        lacking = sorted((everyone | set(split.holdout)) - listed.keys())
        if twice or lacking:
            which = f"fold {k}" + (f" of repeat {repeat}" if repeat else "")
            raise DataError(
                f"{which} of split {split.name!r} must list every patient once, got "
                f"{twice or lacking} {'twice' if twice else 'nowhere'} ({path}). {_REMAKE}"
            )


def _require_same_cohort(split: Split, table: Store, cohort_sha: str) -> None:
    split_patients = {*split.holdout, *split.all.train, *split.all.inner_val}
    store_patients = set(table.items["patient_id"])
    remedy = "The split is of another cohort: make a split under a new name."
    new = sorted(store_patients - split_patients)
    gone = sorted(split_patients - store_patients)
    if new or gone:
        raise DataError(
            f"patients of split {split.name!r} must be those of the store {table.path}, got "
            f"{len(new)} new {new[:5]} and {len(gone)} gone {gone[:5]}. {remedy}"
        )
    if _cohort_sha(table, split_patients - set(split.holdout)) != cohort_sha:
        raise DataError(
            f"labels of the store {table.path} must be those split {split.name!r} was made with, "
            f"got others for some patients. {remedy}"
        )


def _cohort_sha(table: Store, development: Iterable[str]) -> str:
    """Hash of the patients and labels outside the hold-out (sealed labels are not looked at)."""
    labels = table.labels
    return _sha({patient: int(labels[patient]) for patient in sorted(development)})


def _sha(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""What the ledger of a sweep's store says of its hold-out: who else froze, used or opened it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from datamodules.ledger import LEDGER, Ledger, read_ledger
from evaluation.errors import EvaluationError
from evaluation.records.listing import Listing
from evaluation.records.runs import Sweep


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """The store's ledger, as far as it concerns the hold-out of a sweep.

    Attributes:
        ledger: As read.
        openings: Of hold-outs that share patients with this one, oldest first, each with `shared`,
            the number of them.
        history: Splits and sweeps of the store, each as `what`, `name`, `time`, `held_out` (how
            many of this hold-out's patients it holds out), `not_held_out` and `reason`.
        problems: What does not agree, each in a sentence's words; none if all does.
        overlap: How many patients of an earlier hold-out this sweep trains on, and the reason that
            was given for it; "" where there are none.
    """

    ledger: Ledger
    openings: tuple[dict[str, Any], ...]
    history: tuple[dict[str, Any], ...]
    problems: tuple[str, ...]
    overlap: str


def store_of(sweep_dir: Path, listing: Listing) -> Path | None:
    """The store that a sweep was made from, as the sweep names it, if it is still there."""
    if listing.registered:
        return _reached(Path(listing.registered.store))
    for run in listing.runs:
        try:
            config = yaml.safe_load((sweep_dir / run.run_id / "config.yaml").read_bytes())
            named = Path(config["study"]["store"])
        except (OSError, KeyError, TypeError, ValueError, RecursionError, yaml.YAMLError):
            continue
        return _reached(named)
    return None


def _reached(store: Path) -> Path | None:
    try:
        return store if store.is_dir() else None
    except OSError:  # in a folder that is not ours to look into
        return None


def read_holdout(sweep: Sweep, store: Path | None, *, head: str = "") -> Holdout | None:
    """What the ledger of the store says, if it is within reach.

    Args:
        sweep: As read.
        store: The store, where the sweep does not say it any more.
        head: A head of the ledger that was lodged elsewhere, and must be in it; "" for none.

    Returns:
        None where the store is out of reach, or was never written a ledger.

    Raises:
        EvaluationError: If `store` is no folder, or there is a head and no ledger to look for it.
    """
    if store and not _reached(store):
        raise EvaluationError(
            f"store must be a folder, got none ({store}). Give the one that the runs came from."
        )
    place = store or store_of(sweep.path, sweep.listing)
    registered = sweep.listing.registered
    try:
        ledger = read_ledger(place) if place else None
    except OSError:
        place = ledger = None
    if head and not place:
        raise EvaluationError(
            "store must be within reach to look for a head in its ledger, got none "
            f"({sweep.path}). Give it: --store STORE."
        )
    if not place or not (ledger or registered or head):
        return None
    if not ledger:
        gone = f"{LEDGER} of the store is gone, in which this sweep was entered"
        ledger = Ledger((), (gone,), "")
    by_part = sweep.predictions.groupby(sweep.predictions["part"] == "test")["patient_id"]
    patients = {bool(is_test): frozenset(names) for is_test, names in by_part}
    hidden = ledger.hashes(patients.get(True, ()))
    entries = {entry["sha"]: entry for entry in ledger.entries}
    problems = [f"{problem} (ledger of the store)" for problem in ledger.problems]
    if registered and registered.entry not in entries:
        problems.append(
            "the ledger of the store lacks the entry of this sweep: it was put back, or is another"
        )
    elif registered and (
        entries[registered.entry].get("analysis_sha") != sweep.listing.analysis_sha
    ):
        problems.append("the declared analysis is not the one entered when the sweep began")
    if head and head.strip().lower() not in entries:
        problems.append(
            f"the ledger of the store lacks the head {head.strip()[:16]}… that was lodged "
            "elsewhere: it was put back"
        )
    count, reason = _trained_on(ledger, sweep, ledger.hashes(patients.get(False, ())))
    overlap = f"{count} patients of an earlier hold-out are trained on" if count else ""
    if count and not reason:
        problems.append(f"{overlap}, and no reason was recorded")
    return Holdout(
        ledger=ledger,
        openings=tuple(
            entry | {"shared": shared}
            for entry in ledger.of("opening")
            if (shared := len(hidden.intersection(entry.get("holdout", ()))))
        ),
        history=tuple(_history(ledger, hidden)),
        problems=tuple(problems),
        overlap=f"{overlap}: {reason}" if overlap and reason else overlap,
    )


def _trained_on(ledger: Ledger, sweep: Sweep, development: frozenset[str]) -> tuple[int, str]:
    """Patients of hold-outs before this sweep's split who are in its development, and why."""
    shas, registered = sweep.shas, sweep.listing.registered
    own = [
        number
        for number, entry in enumerate(ledger.entries)
        if entry.get("split_sha") == shas["split_sha"]
        or (registered and entry["sha"] == registered.entry)
    ]
    if not own:
        return 0, ""
    before = {name for entry in ledger.entries[: own[0]] for name in entry.get("holdout", ())}
    reasons = [str(ledger.entries[number].get("overlap_reason", "")) for number in own]
    return len(before & development), next(filter(None, reasons), "")


def _history(ledger: Ledger, hidden: frozenset[str]) -> list[dict[str, Any]]:
    return [
        {
            "what": entry["kind"],
            "name": str(entry.get("name", "")),
            "time": entry["time"],
            "held_out": (shared := len(hidden.intersection(entry.get("holdout", ())))),
            "not_held_out": len(hidden) - shared,
            "reason": str(entry.get("overlap_reason", "")),
        }
        for entry in ledger.entries
        if entry["kind"] in ("split", "sweep")
    ]

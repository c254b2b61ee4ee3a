"""`ceus prepare`: from a table and untrustworthy files to a store that training can trust."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from datamodules.cores import cores
from datamodules.errors import DataError
from datamodules.files import storing
from datamodules.ingest.cohort import Cohort, Problem, Row, find_repeats
from datamodules.ingest.cohort_file import read_cohort
from datamodules.ingest.commit import check_folder, commit, staging_folder
from datamodules.ingest.crop.view import UNSURE_WRITING
from datamodules.ingest.item import ingest, inspect, place_masks
from datamodules.ingest.known import Known, source_key
from datamodules.ingest.review import doubts, read_approvals, review_path, write_review
from datamodules.ingest.task import GO_ON, Outcome, Task
from datamodules.ingest.workers import Workers, run_all
from datamodules.store.folder import Store
from datamodules.store.pseudonyms import make_key


def prepare(
    cohort_csv: Path,
    store: Path,
    *,
    canvas: int = 256,
    covariates: Sequence[str] = (),
    skip_bad: bool = False,
    as_is: bool = False,
    require_review: bool = False,
    workers: int | None = None,
    cache_size: int | None = None,
    progress: bool = True,
    root: Path | None = None,
    told: bool = True,
) -> Path:
    """Decodes every file of a cohort once, checks it, and writes it into a store.

    Every file is opened, then decoded, before the store is touched: a failure leaves it as it was.
    Files that are in the store already, or that a killed call had finished, are not decoded again;
    rows taken out of the table leave the store.

    Args:
        cohort_csv: Table, see `datamodules.ingest.cohort_file.read_cohort`.
        store: Folder; made if it is not there.
        canvas: Side of the stored frames, pixels, a multiple of 16 in 32..1024. The whole frame
            (or crop) is fitted in, aspect ratio kept, bars black.
        covariates: Further columns of the table to copy.
        skip_bad: Leave bad rows out (told on stderr, kept in skipped.csv) instead of failing.
        as_is: Keep whole frames, or the table's crop: look for no panel, black out no writing.
        require_review: Refuse clips whose panel was found with a confidence under 0.5, or whose
            marks may be writing that was not blacked out, until a person has approved them
            (`datamodules.ingest.review`).
        workers: Processes; by default one a core, or one for 2 GB of memory if that is fewer.
        cache_size: Also decode all clips once at this size, pixels, for runs with cache=disk.
        progress: Show a bar on stderr.
        root: Folder that the table's paths are relative to; its own by default.
        told: Say on stderr what was done; what was left out is said there in any case.

    Returns:
        The store's folder.

    Raises:
        DataError: One that lists every bad row; or the table, the folder or a setting is not
            usable, or another `ceus prepare` is writing this store.
    """
    cohort_csv, store = Path(cohort_csv), Path(store)
    if canvas % 16 or not 32 <= canvas <= 1024:
        raise DataError(
            f"canvas must be a multiple of 16 in 32..1024, got {canvas} (ceus prepare). "
            "256 suits networks of 224 pixels."
        )
    if workers is not None and workers < 1:
        raise DataError(f"workers must be >= 1, got {workers} (ceus prepare). Leave it out.")
    cohort = read_cohort(cohort_csv, covariates=covariates, root=root)
    check_folder(store, canvas)
    with storing(store, GO_ON), staging_folder(store) as staging:
        known = Known(store, staging, approved=read_approvals(store) if require_review else None)
        keys, unreadable = _source_keys(cohort)
        cohort = cohort.without(unreadable)
        tasks = [
            Task(
                line=row.line, path=row.path, patient_id=row.patient_id, modality=row.modality,
                crop=row.crop, panel=row.panel, fps=row.fps, as_is=as_is, canvas=canvas,
                staging=staging, known=frozenset(known.items), masks=row.masks,
            )
            for row in cohort.rows
        ]  # fmt: skip
        outcomes = {task.line: known.find(task, keys[task.line]) for task in tasks}
        new = [task for task in tasks if not outcomes[task.line].item_id]
        with Workers(workers or _default_workers()) as pool:
            for outcome in run_all(inspect, new, pool, label="inspect" if progress else ""):
                outcomes[outcome.line] = outcome
            cohort = cohort.without(_problems(cohort, outcomes, known))
            if not skip_bad:
                cohort.raise_problems()  # now: hours of decoding would not make them good
            usable = {row.line for row in cohort.rows}
            new = [task for task in new if task.line in usable]
            for outcome in run_all(ingest, new, pool, label="prepare" if progress else ""):
                outcomes[outcome.line] = outcome
            for outcome in run_all(place_masks, _masked(tasks, outcomes, known), pool, label=""):
                outcomes[outcome.line] = replace(
                    outcomes[outcome.line], reason=outcome.reason, mask=outcome.mask
                )
        problems = _problems(cohort, outcomes, known)
        _show_panels(store, outcomes, known)
        if require_review:
            problems += _unapproved(cohort, outcomes, known, store=store)
        cohort = cohort.without(problems)
        if not skip_bad:
            cohort.raise_problems()
        if not cohort.rows:
            raise DataError(
                f"cohort must have usable rows, got none ({cohort_csv}):\n"
                f"{cohort.describe_problems()}\nThe store is as it was."
            )
        kept = {row.line: outcomes[row.line] for row in cohort.rows}
        before = known.stored
        for line, outcome in kept.items():
            known.sources[keys[line]] = outcome.source_sha
            if outcome.facts is not None:
                known.items[outcome.item_id] = outcome.facts
        commit(
            store, staging, cohort, kept, facts=known.items, sources=known.sources,
            canvas=canvas, as_is=as_is,
        )  # fmt: skip
        make_key(store)
    new_items = sum(outcome.item_id not in before for outcome in kept.values())
    _tell(cohort, store if told else None, new=new_items)
    if cache_size is not None:
        from datamodules.store.fill import fill_cache  # needs torch

        fill_cache(store, size=cache_size, progress=progress)
    return store


def _default_workers() -> int:
    """A worker at frames of 3840×2160 pixels takes 1.4 GB, the most that is let in."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(1, min(cores(), memory // 2_000_000_000))


def _source_keys(cohort: Cohort) -> tuple[dict[int, str], list[Problem]]:
    """By line; a folder may hold what cannot even be looked at."""
    keys, problems = {}, []
    for row in cohort.rows:
        try:
            keys[row.line] = source_key(row.path)
        except OSError as error:
            problems.append(row.problem(f"file must be readable, got {error.strerror}"))
    return keys, problems


def _problems(cohort: Cohort, outcomes: dict[int, Outcome], known: Known) -> list[Problem]:
    """What opening, or decoding, found, row by row."""
    problems = []
    decoded: list[Row] = []
    for row in cohort.rows:
        outcome = outcomes[row.line]
        facts = known.facts(outcome)
        seconds = facts["seconds"] if facts else outcome.seconds
        reason = outcome.reason
        if seconds is not None and (row.arrival_s or 0) > seconds:
            reason = f"arrival_s must lie in the clip of {seconds:.2f} s, got {row.arrival_s}"
        if reason:
            problems.append(row.problem(reason))
        else:
            decoded.append(row)
    sources = {row.line: outcomes[row.line].source_sha for row in decoded}
    return problems + find_repeats(sources, decoded)


def _masked(tasks: list[Task], outcomes: dict[int, Outcome], known: Known) -> list[Task]:
    """Of the clips that have an item and a mask: where they are cropped is known by now."""
    masked = []
    for task in tasks:
        facts = known.facts(outcomes[task.line])
        if task.masks and facts:
            x, y, width, height = (int(part) for part in facts["crop"].split(","))
            masked.append(replace(task, crop=(x, y, width, height)))
    return masked


def _show_panels(store: Path, outcomes: dict[int, Outcome], known: Known) -> None:
    """Writes the contact sheet of the clips that this call or a refused one looked at, if any."""
    items = []
    for line, outcome in outcomes.items():
        facts = known.facts(outcome)
        if facts and "thumbnail" in facts:
            items.append({"item_id": outcome.item_id, "line": line, **facts})
    if items:
        write_review(store, items)
    for outcome in outcomes.values():  # such frames are for the page alone
        (known.facts(outcome) or {}).pop("thumbnail", None)


def _unapproved(
    cohort: Cohort, outcomes: dict[int, Outcome], known: Known, *, store: Path
) -> list[Problem]:
    approved = read_approvals(store)
    problems = []
    for row in cohort.rows:
        outcome = outcomes[row.line]
        facts = known.facts(outcome)
        if not facts or row.modality == "image" or outcome.item_id in approved:
            continue
        if found := doubts(facts):
            what = " and ".join(f"{name} (confidence {sure:.2f})" for name, sure in found)
            page = review_path(store).name
            problems.append(
                row.problem(f"a person must approve {what}; tick it in {page}, or give a crop")
            )
    return problems


def _tell(cohort: Cohort, store: Path | None, *, new: int) -> None:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if store:
        _tell_done(console, cohort, store, new=new)
    if cohort.problems:
        bad = len({problem.line for problem in cohort.problems})
        console.print(f"{bad} rows left out:\n{cohort.describe_problems()}", markup=False)


def _tell_done(console: Console, cohort: Cohort, store: Path, *, new: int) -> None:
    patients = len({row.patient_id for row in cohort.rows})
    console.print(
        f"{store}: {len(cohort.rows)} items of {patients} patients, {new} of them new", markup=False
    )
    items = Store(store, with_unlabelled=True).items
    if unlabelled := items[items["label"].isna()]["patient_id"].nunique():
        console.print(
            f"{unlabelled} patients have no label: no split and no study sees them, "
            "`ceus pretrain` does",
            markup=False,
        )
    clips = items[items["modality"] == "ceus"]
    if in_doubt := int(clips["warnings"].str.contains(UNSURE_WRITING).sum()):
        console.print(
            f"{in_doubt} of {len(clips)} clips show what may be writing, and it was left: look at "
            "them in the review page beside the store, and crop what names a patient",
            markup=False,
        )
    if clips["arrival_s"].isna().any():
        console.print(
            f"{clips['arrival_s'].isna().sum()} of {len(clips)} clips show no arrival of contrast; "
            "quality.csv says why, a column arrival_s of the cohort table sets it",
            markup=False,
        )

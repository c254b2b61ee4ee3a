"""The contact sheet by which a sonographer approves what is kept of each clip, beside the store."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from datamodules.errors import DataError
from datamodules.files import write_atomic
from datamodules.ingest.crop.view import SURE_WRITING

LEAST_CONFIDENCE = 0.5  # of a panel; below it a person should look


def doubts(facts: Mapping[str, Any]) -> list[tuple[str, float]]:
    """What of a clip a person should look at, with the confidence that it has."""
    judged = (
        ("panel", facts["crop_confidence"], LEAST_CONFIDENCE),
        ("what may be writing", facts["mask_confidence"], SURE_WRITING),
    )
    return [(what, confidence) for what, confidence, least in judged if confidence < least]


def review_path(store: Path) -> Path:
    """Page beside the store, not in it: it shows frames before anything was cut away."""
    return store.absolute().with_name(f"{store.name}-review.html")


def approvals_path(store: Path) -> Path:
    """Where the page's approvals are to be saved: a table with a column `item_id`."""
    return store.absolute().with_name(f"{store.name}-approved.csv")


def read_approvals(store: Path) -> frozenset[str]:
    """Items that a person has approved; none without a file.

    Raises:
        DataError: If the file is not a table of item_ids.
    """
    path = approvals_path(store)
    if not path.is_file():
        return frozenset()
    head, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    if head.split(",")[0].strip() != "item_id":
        raise DataError(
            f"approvals must have a first column item_id, got {head!r} ({path}). "
            "Save it again from the page."
        )
    return frozenset(line.split(",")[0].strip() for line in lines)


def write_review(store: Path, items: Sequence[Mapping[str, Any]]) -> Path:
    """Write the page, the most doubtful items first.

    Args:
        store: The store's folder.
        items: Records with item_id, line, thumbnail, crop, crop_method, crop_confidence, masked,
            mask_confidence.
    """
    approved = read_approvals(store)
    path = review_path(store)
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True)
    page = environment.get_template("review.html").render(
        name=store.name,
        approvals=approvals_path(store).name,
        items=sorted(
            (
                {**item, "approved": item["item_id"] in approved, "doubts": doubts(item)}
                for item in items
            ),
            key=lambda item: (
                not item["doubts"],
                min(item["crop_confidence"], item["mask_confidence"]),
            ),
        ),
    )
    write_atomic(path, page)
    return path

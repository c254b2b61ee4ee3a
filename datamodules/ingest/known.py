"""What need not be done again: items of the store, and of a call that was killed."""

import hashlib
import json
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from datamodules.errors import DataError
from datamodules.ingest.review import doubts
from datamodules.ingest.tables import require_whole
from datamodules.ingest.task import Outcome, Task, item_suffixes, make_item_id


class Known:
    """What the store holds already (`prepared.json`), and what a killed call had finished.

    Attributes:
        sources: Hash of a file's place, size and time -> hash of its content.
        items: item_id -> facts, for items whose files are all there.
        stored: item_ids of those in the store.

    Args:
        store: The store's folder.
        staging: What was finished and not taken into the store.
        approved: Where given, clips in doubt that are not among these item_ids are not known, so
            that they are decoded again, for the review page to show them.
    """

    def __init__(
        self, store: Path, staging: Path, *, approved: Collection[str] | None = None
    ) -> None:
        self.sources: dict[str, str] = {}
        self.items: dict[str, dict[str, Any]] = {}
        self._read_store(store)
        self.stored = frozenset(self.items)
        for path in staging.glob("*.json"):
            with suppress(ValueError, OSError):  # what a machine leaves that lost its power
                facts = json.loads(path.read_text())
                require_whole(facts)
                self.items.setdefault(path.stem, facts)
        if approved is not None:
            self.items = {
                item_id: facts
                for item_id, facts in self.items.items()
                if item_id in approved or "thumbnail" in facts or not doubts(facts)
            }

    def _read_store(self, store: Path) -> None:
        path = store / "prepared.json"
        if not path.is_file():
            return
        sizes = {entry.name: entry.stat().st_size for entry in (store / "items").glob("*.*")}
        try:
            content = json.loads(path.read_text())
            self.sources = dict(content["sources"])
            for item_id, facts in content["items"].items():
                require_whole(facts)
                facts.pop("thumbnail", None)  # of a store that an earlier version made
                modality = "image" if facts["codec"] == "image" else "ceus"
                files = [item_id + suffix for suffix in item_suffixes(modality)]
                # A file that is gone, or of another size, is made again.
                if sum(sizes.get(name, -1) for name in files) == facts["bytes"]:
                    self.items[item_id] = facts
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"list of what is prepared must be whole, got {type(error).__name__} ({path}). "
                "Delete it: every file is then decoded again, to the same items."
            ) from error

    def facts(self, outcome: Outcome) -> dict[str, Any] | None:
        """What is known of an outcome's item, None before it was decoded."""
        return outcome.facts or self.items.get(outcome.item_id)

    def find(self, task: Task, key: str) -> Outcome:
        """The task's item if it is here, else an outcome without an item."""
        source_sha = self.sources.get(key, "")
        item_id = make_item_id(task, source_sha) if source_sha else ""
        item_id = item_id if item_id in self.items else ""
        return Outcome(task.line, source_sha=source_sha, item_id=item_id)


def source_key(path: Path) -> str:
    """Hash of a file's place, size and time (of all files of a folder): quick to see a change."""
    text = str(path)
    for part in sorted(path.iterdir()) if path.is_dir() else (path,):
        status = part.stat()
        text += f"\0{part.name}\0{status.st_size}\0{status.st_mtime_ns}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:32]

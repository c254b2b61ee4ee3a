"""What was printed of a sweep the last time, as long as nothing that it came from has changed."""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

from datamodules.ledger import LEDGER
from evaluation.files import write_atomic
from evaluation.records.holdout import store_of
from evaluation.records.listing import read_listing
from evaluation.result import Evaluation

_FILE = "latest.json"
_LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy")
_NOT_READ = {"log.txt", "reference.npz", "network.onnx", "network.json"}  # of ceus predict
_OWN = Path(__file__).parent


def remember(evaluation: Evaluation, text: str) -> None:
    """Keep what was printed of an evaluation that was written; not of one that must warn."""
    if evaluation.exit_code == 0:
        kept = {"inputs": _inputs_sha(evaluation.sweep.path), "text": text}
        write_atomic(evaluation.folder / _FILE, json.dumps(kept))


def remembered(sweep_dir: Path) -> str | None:
    """The text kept, if the report still is what `evaluate` would write; else None."""
    folder = sweep_dir / "evaluation"
    try:
        kept = json.loads((folder / _FILE).read_text())
        is_current = kept["inputs"] == _inputs_sha(sweep_dir)
        return str(kept["text"]) if is_current and (folder / "report.html").is_file() else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _inputs_sha(sweep_dir: Path) -> str:
    """Of the sweep's files, its store's ledger, this package and what it computes with."""
    digest = hashlib.sha256(" ".join(map(version, _LIBRARIES)).encode())
    # A run's checkpoints lie deeper than what is read of it.
    read = (p for p in {*sweep_dir.glob("*"), *sweep_dir.glob("*/*")} if p.name not in _NOT_READ)
    written = sweep_dir / "evaluation"
    _add(digest, sweep_dir, (path for path in read if not path.is_relative_to(written)))
    if store := store_of(sweep_dir, read_listing(sweep_dir)):
        _add(digest, store, [store / LEDGER])
    _add(digest, _OWN, _OWN.rglob("*"))
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", root: Path, paths: Iterable[Path]) -> None:
    for path in sorted(paths):
        if path.is_file() and path.suffix != ".pyc" and path.name[0] != ".":
            content = hashlib.sha256(path.read_bytes())
            digest.update(f"{path.relative_to(root)} {content.hexdigest()}\n".encode())

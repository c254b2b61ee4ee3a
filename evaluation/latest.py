"""What `evaluate` said last, for as long as nothing that it reads has changed.

A sweep that is called again has nothing to do; making the same report anew would be all its time.
"""

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from evaluation.evaluate import Evaluation
from evaluation.files import write_atomic

_FILE = "latest.json"
_LIBRARIES = ("matplotlib", "numpy", "pandas", "scipy")
_NOT_READ = {"log.txt"}


def remember(evaluation: Evaluation, text: str) -> None:
    """Keep what was printed of an evaluation that was written; not of one that must warn."""
    if evaluation.exit_code == 0:
        known = {"inputs": _hash(evaluation.sweep.path), "text": text}
        write_atomic(evaluation.folder / _FILE, json.dumps(known))


def remembered(sweep_dir: Path) -> str | None:
    """The text kept, if the report still is what `evaluate` would write; else None."""
    folder = sweep_dir / "evaluation"
    try:
        known = json.loads((folder / _FILE).read_text())
        current = (folder / "report.html").is_file() and known["inputs"] == _hash(sweep_dir)
        return str(known["text"]) if current else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _hash(sweep_dir: Path) -> str:
    """Of the files of the sweep and its runs, of this package and of what it computes with."""
    found = hashlib.sha256(" ".join(map(version, _LIBRARIES)).encode())
    for root in (sweep_dir, Path(__file__).parent):
        for path in _files(root):
            content = hashlib.sha256(path.read_bytes())
            found.update(f"{path.relative_to(root)} {content.hexdigest()}\n".encode())
    return found.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    apart = root / "evaluation"
    for path in sorted({*root.glob("*"), *root.glob("*/*")}):
        of_result = path.is_relative_to(apart) or path.name in _NOT_READ
        if path.is_file() and path.suffix != ".pyc" and path.name[0] != "." and not of_result:
            yield path

"""From a sweep folder to its evaluation folder; what was computed last is remembered."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

from evaluation.files import write_atomic
from evaluation.result import Evaluation, compute
from evaluation.tables.make import Tables

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


def evaluate(sweep_dir: Path, *, out: Path | None = None) -> Evaluation:
    """Compute all tables of a sweep and write them, with report, figures and checklists.

    The same folder gives the same bytes again: `report.html`, each table of `Tables` as a CSV file
    of its name, `figures/` (SVG, PDF, PNG), `checklists/` (CSV) and, where a deployed model is
    done, `model_card.md`.

    Args:
        sweep_dir: Sweep folder (DESIGN, run directory).
        out: Where to write; `SWEEP_DIR/evaluation` if not given.

    Raises:
        EvaluationError: as `compute`.
    """
    from evaluation.checklists import as_csv, fill
    from evaluation.figures import drawings
    from evaluation.report import report_html
    from evaluation.text.model_card import model_card

    result = compute(sweep_dir, out=out)
    made, checklists = drawings(result), fill(result)
    contents: dict[str, str | bytes] = _csv_files(result.tables)
    for drawing in made.values():
        contents |= {f"figures/{name}": content for name, content in drawing.files().items()}
    contents |= {f"checklists/{name}.csv": as_csv(items) for name, items in checklists.items()}
    if card := model_card(result):
        contents["model_card.md"] = card
    contents[result.report.name] = report_html(result, made, checklists)
    for name, content in contents.items():
        path = result.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    return result


def _csv_files(tables: Tables) -> dict[str, str | bytes]:
    return {
        f"{field.name}.csv": getattr(tables, field.name).to_csv(index=False, lineterminator="\n")
        for field in fields(tables)
    }

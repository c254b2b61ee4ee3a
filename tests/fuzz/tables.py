"""Cohort tables with one thing wrong."""

import csv
import io
import random
from collections.abc import Callable
from pathlib import Path

from datamodules.errors import DataError
from datamodules.ingest.cohort_file import read_cohort

_GOOD = [{"patient_id": f"P{n:02d}", "label": str(n % 2), "modality": "image", "path": f"{n}.png"}
         for n in range(6)]  # fmt: skip
_TABLES: dict[str, Callable[[list[dict[str, str]]], object]] = {
    "id in another case": lambda rows: rows[1].update(patient_id="p00"),
    "id with a zero-width space": lambda rows: rows[1].update(patient_id="P00\u200b"),
    "id of another width": lambda rows: rows[1].update(patient_id="\uff3000"),
    "leading zeros": lambda rows: (
        rows[0].update(patient_id="7"),
        rows[1].update(patient_id="007"),
    ),
    "rounded by a spreadsheet": lambda rows: rows[1].update(patient_id="1.67683E+15"),
    "id with an escape": lambda rows: rows[1].update(patient_id="P\x1b[2J"),
    "id with a new line": lambda rows: rows[1].update(patient_id="P0\n1"),
    "two labels": lambda rows: (rows[0].update(patient_id="Q"), rows[1].update(patient_id="Q")),
    "label out of range": lambda rows: rows[1].update(label="2"),
    "path of a device": lambda rows: rows[1].update(path="/dev/zero"),
    "path outside": lambda rows: rows[1].update(path="../../../etc/passwd"),
    "name of 300 letters": lambda rows: rows[1].update(path="a" * 300 + ".png"),
    "NUL in a path": lambda rows: rows[1].update(path="a\0.png"),
    "frame time as a rate": lambda rows: rows[1].update(fps="0.04"),
    "rate of an infinity": lambda rows: rows[1].update(fps="inf"),
    "crop of words": lambda rows: rows[1].update(crop="all"),
    "the same file twice": lambda rows: rows[1].update(path="0.png"),
}


def table_outcome(folder: Path, rng: random.Random) -> tuple[str, str]:
    """A table with one thing wrong: every kind here must be named."""
    root = folder / "table"
    root.mkdir(exist_ok=True)
    for number in range(6):
        (root / f"{number}.png").write_bytes(b"x")
    rows = [{"fps": "", "crop": "", **row} for row in _GOOD]
    what = rng.choice([*_TABLES, "flips", "cut", "encoding"])
    if what in _TABLES:
        _TABLES[what](rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    data = text.getvalue().encode()
    if what == "cut":
        data = data[: rng.randrange(len(data))]
    elif what == "flips":
        changed = bytearray(data)
        for _ in range(rng.choice((1, 5, 50))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        data = bytes(changed)
    elif what == "encoding":
        data = ("\ufeff" + data.decode()).encode(rng.choice(("utf-16", "utf-8", "utf-32")))
    (root / "cohort.csv").write_bytes(data)
    try:
        cohort = read_cohort(root / "cohort.csv")
    except DataError:
        return "named error", what
    except Exception as error:  # noqa: BLE001  it is what is looked for
        return "crash", f"{what}: {error!r}"
    if cohort.problems:
        return "named error", what
    same = [(row.patient_id, row.label) for row in cohort.rows] == [
        (row["patient_id"], int(row["label"])) for row in _GOOD
    ]
    if same:
        return "right", what
    return ("cannot be told" if what in {"flips", "cut"} else "wrong in silence"), what

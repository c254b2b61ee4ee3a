"""The report: one HTML file that needs no network, the same bytes for the same sweep."""

import hashlib
import importlib.metadata
import re
from collections import Counter
from io import StringIO
from typing import TYPE_CHECKING

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from evaluation.figures import comparison_figure, fold_figure, roc_figure
from evaluation.formatting import (
    interval,
    is_deployed,
    notes,
    number,
    seal_sentences,
    spread,
    states,
)

if TYPE_CHECKING:
    from evaluation.evaluate import Evaluation

_OWN_PACKAGES = ("ceus", "numpy", "scipy", "pandas", "matplotlib")


def report_html(evaluation: "Evaluation") -> str:
    """The report as text. It names no patient."""
    environment = Environment(
        loader=PackageLoader("evaluation", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number}
    environment.globals |= {"interval": interval, "spread": spread}
    tables = evaluation.tables
    return environment.get_template("report.html").render(
        sweep=evaluation.sweep,
        states=states(evaluation),
        modalities=tables.modalities.to_dict("records"),
        cells=tables.cells.to_dict("records"),
        cell_notes=notes(tables.cells),
        complete=bool(tables.cells["complete"].all()),
        unfinished=[run for run in evaluation.sweep.runs if run.state != "done"],
        seal=evaluation.seal,
        seal_sentences=seal_sentences(evaluation),
        test=tables.test.to_dict("records"),
        test_notes=notes(tables.test),
        deployed=is_deployed(evaluation),
        comparison=_svg(comparison_figure(evaluation), "comparison"),
        roc=_svg(roc_figure(evaluation), "roc"),
        folds=_svg(fold_figure(evaluation), "folds"),
        provenance=_provenance(evaluation),
    )


def _svg(figure: Figure, name: str) -> Markup:
    """A figure as an SVG element whose ids are its own, for several stand in one document."""
    file = StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))


def _provenance(evaluation: "Evaluation") -> list[tuple[str, str]]:
    """What the figures came from; where runs differ, each value with its number of runs."""
    sweep = evaluation.sweep
    files = hashlib.sha256()
    for run in sweep.runs:
        if run.state == "done":
            files.update((sweep.path / run.run_id / "predictions.parquet").read_bytes())
    rows: list[tuple[str, str]] = [
        ("split", sweep.shas["split_sha"]),
        ("store", sweep.shas["store_sha"]),
        ("predictions of all done runs (SHA-256)", files.hexdigest()),
        ("seeds", ", ".join(map(str, sorted({run.seed for run in sweep.runs})))),
    ]
    keys = dict.fromkeys(key for flat in sweep.environments.values() for key in flat)
    for key in keys:
        found = Counter(flat.get(key, "not recorded") for flat in sweep.environments.values())
        several = len(found) > 1
        rows.append(
            (
                f"trained with: {key}",
                ", ".join(f"{v} ({n} runs)" if several else v for v, n in sorted(found.items())),
            )
        )
    rows += [
        (f"evaluated with: {name}", importlib.metadata.version(name)) for name in _OWN_PACKAGES
    ]
    return rows

"""The files, the report and the terminal table: complete, the same each time, and discreet."""

import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import evaluation.remembered as module
from evaluation import Tables, compute, evaluate, render, unseal
from evaluation.checklists import fill
from evaluation.figures import comparison_figure, drawings
from evaluation.remembered import remember, remembered
from evaluation.report import report_html
from evaluation.report.provenance import provenance
from evaluation.tables.scores import of_cell

FIRST = "alpha-image-fold0-seed0-01234567"
FIGURES = [
    "comparison",
    "flow",
    "roc",
    "folds",
    "forest",
    "calibration",
    "decision",
    "scales",
    "confusion_oof",
]
FILES = {
    "report.html",
    "recalibration.json",
    *(f"{field.name}.csv" for field in fields(Tables)),
    *(f"checklists/{name}.csv" for name in ("tripod_ai", "claim_2024", "stard_ai")),
    *(f"figures/{name}.{kind}" for name in FIGURES for kind in ("svg", "pdf", "png")),
}


@pytest.fixture(scope="module")
def grown(sweep_maker, tmp_path_factory):
    """A sweep of the size of the demo, with one failed run."""
    grown = sweep_maker(
        tmp_path_factory.mktemp("sweeps") / "grown",
        architectures=("resnet", "densenet", "inception", "mvit", "swin"),
        modalities=("image", "video", "combined"),
    ).write()
    grown.status(grown.run_ids()[-1], "failed", "OutOfMemoryError: <script>alert('x')</script>")
    return grown


@pytest.fixture(scope="module")
def result(grown):
    return compute(grown.path)


@pytest.fixture(scope="module")
def html(result):
    return report_html(result, drawings(result), fill(result))


def contents(result):
    paths = (path for path in result.folder.rglob("*") if path.is_file())
    return {path.relative_to(result.folder).as_posix(): path.read_bytes() for path in paths}


@pytest.fixture(scope="module")
def written(sweep_maker, tmp_path_factory):
    """A small sweep, and its evaluation as written elsewhere."""
    made = sweep_maker(tmp_path_factory.mktemp("written") / "trial").write()
    out = tmp_path_factory.mktemp("out") / "deep" / "out"
    evaluate(made.path, out=out)
    kinds = {path.suffix for path in (out / "figures").iterdir()}
    evaluate(made.path, out=out, figures=True)
    # Once they are there, they are kept up with the tables.
    result = evaluate(made.path, out=out)
    return made, result, kinds


def test_twice_gives_the_same_bytes_wherever_they_are_written(written):
    made, first, kinds = written
    assert kinds == {".svg"}
    files = contents(first)
    assert set(files) == FILES
    assert not (made.path / "evaluation").exists()
    again = compute(made.path)
    drawn = drawings(again)
    assert report_html(again, drawn, fill(again)).encode() == files["report.html"]
    for field in fields(Tables):
        table = getattr(again.tables, field.name).to_csv(index=False, lineterminator="\n")
        assert table.encode() == files[f"{field.name}.csv"]
    for kind in ("svg", "pdf", "png"):
        assert drawn["calibration"].saved(kind) == files[f"figures/calibration.{kind}"]


def test_csv_files_hold_the_tables_to_the_last_digit(written):
    made, result, _ = written
    again = compute(made.path)
    for name in ("cells", "folds", "modalities", "roc", "test"):
        table = getattr(again.tables, name)
        read = pd.read_csv(result.folder / f"{name}.csv", keep_default_na=True)
        assert list(read) == list(table)
        for column in table.select_dtypes("float"):
            np.testing.assert_allclose(read[column], table[column], rtol=1e-15)
    runs = pd.read_csv(result.folder / "runs.csv")
    assert list(runs["run_id"]) == made.run_ids()


def test_what_was_printed_is_kept_until_something_that_is_read_changes(sweep):
    made = compute(sweep.path)
    made.folder.mkdir()
    made.report.write_text("as `evaluate` writes it")
    assert remembered(sweep.path) is None
    remember(made, "as printed")
    assert remembered(sweep.path) == "as printed"
    (sweep.path / FIRST / "log.txt").write_text("not read")
    assert remembered(sweep.path) == "as printed"
    sweep.status(FIRST, "pending")
    assert remembered(sweep.path) is None
    remember(made, "as printed")
    made.report.unlink()
    assert remembered(sweep.path) is None


@pytest.mark.parametrize(
    "name", ["errors.py", "statistics/auc.py", "checklists/answers.yaml", "report/page.css"]
)
def test_a_change_of_a_source_file_in_any_wing_makes_it_compute_again(
    sweep, tmp_path, monkeypatch, name
):
    package = tmp_path / "package"
    shutil.copytree(
        Path(module.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(module, "_OWN", package)
    made = compute(sweep.path)
    made.folder.mkdir()
    made.report.write_text("as `evaluate` writes it")
    remember(made, "as printed")
    assert remembered(sweep.path) == "as printed"
    source = package / name
    source.write_text(source.read_text() + "\n")
    assert remembered(sweep.path) is None


def test_terminal_table_fits_and_says_what_is_lacking(result):
    text = render(result, 80)
    lines = text.splitlines()
    report = next(number for number, line in enumerate(lines) if line.startswith("Report: "))
    assert max(map(len, lines[:report])) <= 80
    rows = [line for line in lines if re.match(r"(resnet|densenet|inception|mvit|swin)\*? ", line)]
    assert len(rows) == 15
    assert "swin*" in text
    assert "29 done, 1 failed" in text
    assert "Failed: swin-combined-fold1-seed0-01234567: OutOfMemoryError" in text
    assert "Test set: sealed (10 patients" in text


def test_terminal_shows_test_figures_once_opened(sweep):
    unseal(sweep.path, sweep.store, reason="final analysis")
    text = render(compute(sweep.path), 80)
    assert text.count(" ‡ ") == 4
    assert "‡ ensemble of fold models" in text
    assert "opened 1 time" in text
    assert max(map(len, text.splitlines()[:-1])) <= 80


def test_report_is_whole_discreet_and_escaped(grown, html):
    assert not re.search(r"<(link|img|iframe)\b|@import|url\(http|\bsrc=|<script ", html)
    assert html.count("<script>") == 1
    assert "&lt;script&gt;alert" in html
    names = "|".join((*grown.development, *grown.hidden))
    assert not re.search(rf"\b({names})\b", html)
    addresses = set(re.findall(r'(?:https?:)?//[^\s"\'<]+', html))
    assert all("w3.org" in address for address in addresses), addresses  # namespaces of SVG
    assert html.count("<svg ") == html.count('role="img"') == 9
    assert "incomplete" in html
    assert "sealed (10 patients" in html
    assert "packages.torch" in html

    opened = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br", "input"):
                opened.append(tag)

        def handle_endtag(self, tag):
            assert opened.pop() == tag

        def handle_startendtag(self, tag, attrs):
            pass

    Balanced().feed(html)
    assert not opened


def test_ids_are_unique_in_the_report(html):
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    targets = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html)
    assert {a or b for a, b in targets} <= set(ids)


def test_report_shows_openings_and_the_test_table(sweep):
    unseal(sweep.path, sweep.store, reason="final <analysis>")
    result = compute(sweep.path)
    html = report_html(result, drawings(result), fill(result))
    assert "opened 1 time" in html
    assert "final &lt;analysis&gt;" in html
    assert html.count("ensemble, 2/2 runs") == 4


def test_provenance_counts_runs_that_differ(sweep):
    environment = {"python": "3.12.1", "packages": {"torch": "2.6.0"}}
    (sweep.path / FIRST / "environment.json").write_text(json.dumps(environment))
    rows = dict(provenance(compute(sweep.path)))
    assert rows["trained with: python"] == "3.11.0 (7 runs), 3.12.1 (1 run)"


def test_comparison_figure_shows_each_cell_once(result):
    figure = comparison_figure(result)
    dots = [line for axes in figure.axes for line in axes.get_lines() if line.get_marker() == "o"]
    assert len(figure.axes) == 3
    assert len(dots) == 15
    assert sum(line.get_markerfacecolor() == "white" for line in dots) == 1


def test_importing_needs_neither_torch_nor_matplotlib():
    heavy = "torch matplotlib jinja2 scipy.stats sklearn omegaconf"
    code = f"import sys, evaluation; print([m for m in '{heavy}'.split() if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_where_no_rate_is_defined_nothing_is_said_of_its_range(sweep):
    for run_id in sweep.run_ids(fold=1):
        sweep.status(run_id, "failed", "lost")
    told = " ".join(render(compute(sweep.path)).split())
    assert "– and –" not in told
    assert "differs most between the folds" not in told


def test_the_maps_of_deployed_models_are_kept_with_what_they_were_fitted_on(written):
    made, result, _ = written
    path = result.folder / "recalibration.json"
    kept = json.loads(path.read_text())
    files = [made.path / run / "predictions.parquet" for run in made.run_ids()]
    joined = b"".join(file.read_bytes() for file in files)
    assert kept["predictions_sha"] == hashlib.sha256(joined).hexdigest()
    assert (kept["split_sha"], kept["store_sha"]) == ("a" * 64, "b" * 64)
    rows = dict(provenance(result))
    assert rows["recalibration.json (SHA-256)"] == hashlib.sha256(path.read_bytes()).hexdigest()
    oof = result.tables.patients.query("part == 'oof'")
    assert len(kept["maps"]) == 4
    for each in kept["maps"]:
        mine = of_cell(oof, each["architecture"], each["modality"])
        odds = each["intercept"] + each["slope"] * mine["score"]
        p = 1 / (1 + np.exp(-odds))
        # What a map leaves on those that it was fitted on: as many events as expected.
        assert p.sum() == pytest.approx(mine["label"].sum(), abs=1e-6)
        assert each["patients"] == 40


def test_a_cell_that_tells_nothing_has_no_map(sweep):
    for run_id in sweep.run_ids(architecture="alpha", modality="image"):
        sweep.change(
            run_id, lambda t: t.assign(logit=-t["logit"], probability=1 - t["probability"])
        )
    result = evaluate(sweep.path)
    kept = json.loads((result.folder / "recalibration.json").read_text())["maps"][0]
    assert (kept["intercept"], kept["slope"]) == (None, None)
    assert kept["reason"].startswith("the slope must be above 0")
    assert re.search(r"a fold has no map \(\d rows?\)", result.report.read_text())

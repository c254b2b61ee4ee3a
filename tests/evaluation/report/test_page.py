"""The report of a whole sweep folder: in a real browser, on paper, figures, checklists, card."""

import csv
import json
import re
import tomllib
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import ModelCard
from PIL import Image
from pypdf import PdfReader

from evaluation import EvaluationError, compute, evaluate, read_sweep, unseal
from evaluation.checklists import fill
from evaluation.figures import comparison_figure, roc
from evaluation.figures.style import COLOURS, LINES, MARKERS
from evaluation.records.study import read_study
from evaluation.text.model_card import model_card

PRIMARY = {"primary": {"modalities": ["combined", "image"], "architecture": "selected"}}


LONGEST = {"tripod_ai": 52, "claim_2024": 44, "stard_ai": 48}


def declare(made):
    path = made.path / "sweep.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"analysis": PRIMARY}))


@pytest.fixture(scope="module")
def made(study_maker, tmp_path_factory):
    """Two architectures, opened, one run failed; patients at half the size of the study."""
    made = study_maker(
        tmp_path_factory.mktemp("report") / "trial",
        architectures=("resnet", "swin"),
        folds=(0, 1, "all"),
        seeds=(0,),
        patients=140,
        holdout=60,
    ).write()
    declare(made)
    made.status(made.run_ids(architecture="swin", modality="image", fold=1)[0], "failed", "lost")
    return made


@pytest.fixture(scope="module")
def sealed(made):
    return compute(made.path)


@pytest.fixture(scope="module")
def result(made, sealed):
    unseal(made.path, made.store, reason="final analysis", unfinished=True)
    return evaluate(made.path, figures=True)


@pytest.fixture
def page(browser, result):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    seen = []
    page.on("console", lambda message: seen.append(message.text))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url))
    page.goto(result.report.as_uri())
    yield page
    page.close()
    assert seen == [result.report.as_uri()], "nothing but the file itself may be asked for"


def _headings(result):
    text = result.report.read_text()
    return re.findall(r"<(?:h2|caption)>([^<]+)<", text)


def _lines(printed):
    """Text, x and y (points from the page's lower left) of a printed page, as it was drawn."""
    found = []

    def visit(text, matrix, text_matrix, *_):
        x = matrix[0] * text_matrix[4] + matrix[4]
        y = matrix[3] * text_matrix[5] + matrix[5]
        if text.strip():
            found.append((text.strip(), x, y))

    printed.extract_text(visitor_text=visit)
    return found


def column(page, table, at):
    return page.eval_on_selector_all(
        f"#{table} tbody tr:not([hidden]) td:nth-child({at})", "all => all.map(td => td.innerText)"
    )


@pytest.mark.browser
def test_tables_sort_by_keyboard_with_undefined_values_last(page):
    head = page.locator("#cells thead th").nth(5)
    assert "out-of-fold AUC" in head.inner_text()
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    up = [float(text[:5]) for text in column(page, "cells", 6)]
    assert up == sorted(up)
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text[:5]) for text in column(page, "cells", 6)] == up[::-1]
    spread = page.locator("#cells thead th").nth(6)
    for order in ("ascending", "descending"):
        spread.locator("button").click()
        assert spread.get_attribute("aria-sort") == order
        assert head.get_attribute("aria-sort") == "none"
        assert column(page, "cells", 7)[-1] == "–"


@pytest.mark.browser
def test_tables_filter_by_words_and_by_choice(page):
    page.locator("summary", has_text="All operating points").click()
    bar = page.locator("details", has=page.locator("#operating-table")).locator(".filter")
    everything = len(column(page, "operating-table", 1))
    bar.get_by_label("part").select_option("=test")
    assert set(column(page, "operating-table", 3)) == {"test"}
    bar.get_by_label("Filter").fill("youden SWIN")
    assert set(column(page, "operating-table", 1)) == {"swin"}
    assert bar.get_by_role("status").inner_text() == f"3 of {everything} rows"
    bar.get_by_label("Filter").fill("")
    bar.get_by_label("part").select_option("")
    assert len(column(page, "operating-table", 1)) == everything


@pytest.mark.browser
def test_the_first_screen_tells_what_was_found(page, result):
    assert page.locator("h1").bounding_box()["y"] < 200
    figure = page.locator("#figure-comparison svg").bounding_box()
    assert figure["y"] + figure["height"] < 900
    row = result.tables.comparisons.query("family == 'primary' and part == 'test'").iloc[0]
    assert f"difference {row['difference']:.3f}" in page.locator("h1").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    for folded in ("All operating", "Calibration of all cells", "Net benefit at", "AUC of cells"):
        page.locator("summary", has_text=folded).click()
    for table in (  # nothing is cut off at the right
        "youden", "operating-table", "selected-points", "calibration-selected",
        "calibration-table", "net-benefit-contrast", "decision-table", "sample-size",
        "complete-primary", "complete-cells",
    ):  # fmt: skip
        wide, shown = page.eval_on_selector(
            f".scroll:has(#{table})", "each => [each.scrollWidth, each.clientWidth]"
        )
        assert wide <= shown, table
    links = page.eval_on_selector_all("nav a", "all => all.map(a => a.getAttribute('href'))")
    assert all(page.locator(link).count() == 1 for link in links)


@pytest.mark.browser
def test_it_prints_and_reads_without_scripts(browser, result):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(result.report.as_uri())
    assert page.locator("#cells tbody tr").count() == 6
    assert page.locator(".filter").count() == 0
    pdf = page.pdf(prefer_css_page_size=True)
    context.close()
    pages = PdfReader(BytesIO(pdf)).pages
    assert 4 <= len(pages) <= 14
    headings = {title for title in _headings(result) if title}
    lowest = {}
    for number, printed in enumerate(pages):
        for text, _, y in _lines(printed):
            lowest.setdefault(number, []).append((y, text))
    for number, lines in lowest.items():
        y, text = min(lines)
        assert text not in headings, f"a heading ends page {number + 1}: {text}"
        if number + 1 < len(lowest):
            assert y < 0.6 * float(pages[number].mediabox.height), (
                f"page {number + 1} is half empty"
            )


def test_no_patient_is_named_anywhere_but_in_the_patients_table(made, result):
    names = [*made.development, *made.hidden]
    pattern = re.compile("|".join(rf"\b{name}\b" for name in names), re.IGNORECASE)
    for path in result.folder.rglob("*"):
        if path.suffix in (".html", ".csv", ".md", ".svg") and path.name != "patients.csv":
            assert not pattern.search(path.read_text()), path.name


def test_what_is_not_known_is_a_dash(sealed):
    rendered = evaluate(sealed.sweep.path).report.read_text()
    cells = re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", rendered)
    assert len(cells) > 200
    assert {"None", "nan", "NaN", "<NA>"}.isdisjoint(text.strip() for text in cells)


def test_the_flow_counts_what_the_folder_holds(made, sealed, result):
    flow = sealed.tables.flow
    table = flow[flow["step"] == "cohort table"].iloc[0]
    items = pd.read_parquet(made.path / "cohort.parquet")
    assert (table["rows"], table["patients"]) == (len(items) + 4, 200 + 2)
    reasons = flow[flow["step"] == "reason"].fillna({"modality": ""})
    assert reasons[["modality", "reason", "rows"]].values.tolist() == [
        ["CEUS clip", "clip must be decodable", 1],
        ["ultrasound image", "file must exist", 1],
        ["CEUS clip", "file must exist", 1],
        ["", "label must be '0' or '1'", 1],
    ]
    labels = pd.Series(made.labels)
    for each, known in ((sealed, False), (result, True)):
        flow = each.tables.flow
        split = flow[flow["step"] == "split"].set_index("split")
        assert split.loc["development", "events"] == labels[made.development].sum()
        hidden = split.loc["hold-out", "events"]
        assert hidden == labels[made.hidden].sum() if known else pd.isna(hidden)
        clips = flow[(flow["step"] == "available") & (flow["modality"] == "CEUS clip")]
        assert clips["patients"].tolist() == [140 - 6, 60]
        both = flow[(flow["step"] == "available") & (flow["modality"] == "both")]
        assert both["patients"].tolist() == [140 - 10, 60]


def test_table_one_by_split_and_label(made, sealed, result):
    ages = pd.read_parquet(made.store / "cohort.parquet").drop_duplicates("patient_id")
    ages = ages.set_index("patient_id")
    table = result.tables.characteristics.set_index(["characteristic", "level"])
    age = table.loc[("age", "mean ± SD")]
    sides = [ages.loc[names, "age"].dropna() for names in (made.development, made.hidden)]
    assert age["development"] == f"{sides[0].mean():.1f} ± {sides[0].std():.1f}"
    spread = np.sqrt((sides[0].var() + sides[1].var()) / 2)
    assert age["smd"] == pytest.approx((sides[1].mean() - sides[0].mean()) / spread)
    women = ages.loc[made.hidden]
    women = women[(women["label"] == 1)]["sex"] == "F"
    told = f"{women.sum()} ({100 * women.mean():.1f} %)"
    assert table.loc[("sex", "F, n (%)"), "holdout_positive"] == told
    assert table.loc[("age", "missing, n (%)"), "development"] == "1 (0.7 %)"
    # A column that differs for everyone may name them.
    assert ("operator", "200 values, not shown") in table.index
    hidden = sealed.tables.characteristics
    assert (hidden[["holdout_negative", "holdout_positive"]] == "").all(axis=None)


def test_training_table_is_that_of_the_metrics_files(made, result):
    assert len(result.tables.training) == len(made.entries) - 1
    for row in result.tables.training.sample(4, random_state=0).to_dict("records"):
        metrics = pd.read_csv(made.path / row["run_id"] / "metrics.csv")
        watched = metrics.dropna(subset="inner_bce").set_index("epoch")
        assert row["epochs"] == metrics["epoch"].max() + 1
        assert row["chosen_epoch"] == watched["inner_bce"].idxmin() + 1
        assert row["inner_bce"] == watched["inner_bce"].min()
        losses = metrics.dropna(subset="train_loss").set_index("epoch")["train_loss"]
        assert row["train_loss"] == losses[row["chosen_epoch"] - 1]


def test_figures_are_of_a_journals_width_with_their_fonts(result):
    folder = result.folder / "figures"
    names = {path.stem for path in folder.iterdir()}
    assert {"flow", "roc", "forest", "training", "confusion_test"} <= names
    for name in names:
        svg = (folder / f"{name}.svg").read_text()
        assert "<image" not in svg, "a bitmap in a vector file"
        points = float(re.search(r'<svg [^>]*?width="([\d.]+)pt"', svg)[1])
        assert points * 25.4 / 72 == pytest.approx(180, abs=0.1)
        with Image.open(folder / f"{name}.png") as image:
            ink = np.asarray(image.convert("L")) < 128
            assert not ink[[0, -1]].any(), f"{name} is cut off"
            assert image.width / (180 / 25.4) >= 300
            assert image.info["dpi"][0] >= 300
        pdf = (folder / f"{name}.pdf").read_bytes()
        assert b"/FontFile2" in pdf
        assert b"/Type3" not in pdf


def test_one_modality_fits_one_column(study_maker, tmp_path):
    made = study_maker(
        tmp_path / "one", architectures=("alpha",), modalities=("image",), folds=(0, 1),
        seeds=(0,), patients=60, holdout=20,
    ).write()  # fmt: skip
    result = compute(made.path)
    assert comparison_figure(result).get_figwidth() * 25.4 == pytest.approx(85)
    assert model_card(result) is None


def test_lines_are_told_apart_in_grey_by_more_than_colour(result):
    assert len(LINES) >= len(COLOURS) == len(MARKERS)
    axes = roc(result).figure.axes[0]
    named = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    assert len({str(line.get_linestyle()) for line in named}) == len(named) == 2


def test_every_figure_says_its_message_to_those_who_do_not_see_it(result):
    html = result.report.read_text()
    told = re.findall(r'role="img" aria-label="([^"]+)"', html)
    assert len(told) == html.count("<svg ") == 11
    best = result.tables.cells["fold_mean_auc"].max()
    assert f"{best:.3f}" in told[0]
    assert len(set(told)) == len(told)
    assert all(re.search(r"\d", text) for text in told)


@pytest.mark.parametrize("name", LONGEST)
def test_checklists_hold_every_item_once(name, result):
    with (result.folder / "checklists" / f"{name}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    numbers = [row["item"] for row in rows]
    assert len(numbers) == len(set(numbers)) == LONGEST[name]
    answered = {row["item"]: row for row in rows if row["answer"] != "for the authors"}
    assert all(row["evidence"] for row in answered.values())
    lowest = {"tripod_ai": 20, "claim_2024": 21, "stard_ai": 17}[name]
    assert len(answered) >= lowest
    item = {"tripod_ai": "21", "claim_2024": "35", "stard_ai": "24"}[name]
    events = sum(result.seal.labels.values())
    assert f"image hold-out 60 ({events} events)" in answered[item]["answer"]


def test_answers_come_from_all_cells(study_maker, tmp_path):
    """Learning rates, warm start and further axes: not from the first cell alone."""
    made = study_maker(
        tmp_path / "trial", architectures=("resnet+pos_weight=1", "swin+pos_weight=balanced"),
        folds=(0, 1), seeds=(0,), patients=60, holdout=10,
    ).write()  # fmt: skip
    for entry in made.entries:
        path = made.path / entry["run_id"] / "config.yaml"
        config = json.loads(path.read_text())
        if entry["architecture"].startswith("swin"):
            config["study"]["encoder_lr"] = 3e-05
        if entry["modality"] == "combined":
            config["study"] |= {"warm_start": {"image": "a", "video": "b"}}
        config["study"]["selection"] = "last" if entry["modality"] == "image" else "inner_bce"
        path.write_text(json.dumps(config))
    answers = {item.number: item.answer for item in fill(compute(made.path))["claim_2024"]}
    assert "0.0001 (resnet+pos_weight=1); 3e-05 (swin+pos_weight=balanced) (enc" in answers["25"]
    assert "batches of 8, at most" in answers["25"]
    assert "Combined models start from the image and video models" in answers["24"]
    assert "Settings that make a model of its own: pos_weight 1, balanced." in answers["22"]
    assert "that of the schedule's end (image); that of the epoch" in answers["26"]
    assert "Settings compared within the sweep: pos_weight 1, balanced." in answers["26"]


def test_the_model_card_is_one_of_the_hub(result):
    card = ModelCard.load(result.folder / "model_card.md")
    aucs = result.tables.aucs
    test = aucs[aucs["part"] == "test"]
    found = {each.dataset_config: each.metric_value for each in card.data.eval_results}
    names = test["architecture"] + "-" + test["modality"]
    assert found == dict(zip(names, test["auc"].round(4), strict=True))
    shas = result.sweep.predictions.query("fold == 'all'")["checkpoint_sha"].unique()
    assert all(sha in card.content for sha in shas)


def test_a_damaged_record_is_named(made, tmp_path, study_maker):
    other = study_maker(
        tmp_path / "bad", architectures=("alpha",), modalities=("image",), folds=(0, 1),
        seeds=(0,), patients=20, holdout=5,
    ).write()  # fmt: skip
    (other.path / "design.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"design.json must be as the sweep wrote it"):
        read_study(read_sweep(other.path))


def test_the_shipped_files_of_the_report_are_packaged():
    root = Path(__file__).parents[3]
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"][
        "package-data"
    ]["evaluation"]
    packaged = {path for pattern in patterns for path in (root / "evaluation").glob(pattern)}
    others = {path for path in (root / "evaluation").rglob("*") if path.is_file()}
    assert {p for p in others if p.suffix not in (".py", ".pyc")} <= packaged

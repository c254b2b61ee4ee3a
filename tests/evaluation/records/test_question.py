"""The words of a question: where they go, and that nothing else names a disease."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from evaluation import EvaluationError, evaluate, read_sweep
from tests.evaluation.conftest import SweepMaker

ROOT = Path(__file__).parents[3]
LUNG: dict[str, Any] = {
    "title": "Which lungs are abnormal?",
    "population": "patients with lung ultrasound",
    "endpoint": "COVID-19 or pneumonia",
    "negative": "regular",
    "positive": "abnormal",
    "intended_use": "Triage in research.",
    "reference_standard": "PCR and radiography.",
    "published": {
        "source": "Lung Journal 2020",
        "rows": [
            {"modality": "image", "part": "test", "patients": 25, "events": 10, "auc": 0.9,
             "low": 0.8, "high": 0.95, "sensitivity": 0.8, "specificity": 0.8, "accuracy": 0.8}
        ],
    },
}  # fmt: skip


def ask(path: Path, question: dict[str, Any]) -> None:
    content = json.loads((path / "sweep.json").read_text())
    (path / "sweep.json").write_text(json.dumps(content | {"question": question}))


def test_everything_takes_its_words_from_the_question(tmp_path: Path) -> None:
    path = SweepMaker(tmp_path / "sweep", folds=(0, 1, "all")).write().path
    ask(path, LUNG)
    folder = evaluate(path).folder
    texts = {
        name: " ".join((folder / name).read_text().split())
        for name in ("report.html", "model_card.md", "checklists/tripod_ai.csv")
    }
    for name, words in (
        ("report.html", ("title", "population", "endpoint", "negative", "reference_standard")),
        ("model_card.md", ("title", "population", "endpoint", "intended_use")),
        ("checklists/tripod_ai.csv", ("population", "endpoint", "reference_standard")),
    ):
        for word in words:
            assert LUNG[word] in texts[name], (name, word)
        assert not re.search("thyroid|metasta|OLNM|PTC", texts[name], re.IGNORECASE), name
    assert "Lung Journal 2020" in texts["report.html"]


def test_no_question_names_no_disease(tmp_path: Path) -> None:
    path = SweepMaker(tmp_path / "sweep").write().path
    folder = evaluate(path).folder
    assert "label 1 of the cohort table" in (folder / "report.html").read_text()
    assert "published, another cohort" not in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"title": ""}, r"question\.title must be words in one line, got ''"),
        ({"positive": "a\nb"}, r"question\.positive must be words in one line"),
        ({"positive": "regular"}, r"question\.negative and question\.positive must differ"),
        ({"disease": "x"}, r"question in sweep\.json must be as the sweep froze it"),
        ({"published": {"source": "x", "rows": [{"auc": 1}]}}, r"published\.rows must each have"),
    ],
)
def test_bad_questions(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = SweepMaker(tmp_path / "sweep").write().path
    ask(path, LUNG | change)
    with pytest.raises(EvaluationError, match=message):
        read_sweep(path)


def test_nothing_else_names_the_reference_study_s_disease() -> None:
    """The question's own file, the phantom's anatomy, and the names of the two shipped sweeps."""
    named = []
    for room in ("backbones", "datamodules", "evaluation", "experiments", "lightning_modules",
                 "notebooks"):  # fmt: skip
        for path in sorted((ROOT / room).rglob("*")):
            if path.suffix not in {".py", ".yaml", ".html", ".md", ".ipynb", ".css", ".csv"}:
                continue
            if "phantom" in path.parts or path.parent.name == "question":
                continue
            text = path.read_text().replace("question: olnm", "")
            named += [
                f"{path.relative_to(ROOT)}: {match.group()}"
                for match in re.finditer(r"(?i)papillary|metasta|\bPTC\b|OLNM|lymph", text)
            ]
    assert not named

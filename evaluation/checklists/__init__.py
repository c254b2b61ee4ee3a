"""Reporting checklists, answered as far as a run can know; the rest is for the authors.

Items are numbered as published and worded by us in brief. The forms are the publishers': TRIPOD+AI,
CLAIM 2024 and STARD-AI each ask authors to fill in their own.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from evaluation.checklists.facts import facts
from evaluation.files import as_text
from evaluation.result import Evaluation
from evaluation.text.templates import templates


@dataclass(frozen=True, kw_only=True)
class Answered:
    """An item and what the sweep says to it.

    Attributes:
        number: As published.
        section: Section of the checklist.
        asks: What it asks for, in our words.
        answer: What the sweep knows; "" where it is for the authors.
        evidence: Where in the report, or in which file.
    """

    number: str
    section: str
    asks: str
    answer: str
    evidence: str


CHECKLISTS = {
    "tripod_ai": (
        "TRIPOD+AI 2024",
        "Collins et al., BMJ 2024;385:e078378. 27 items, 52 with their parts.",
    ),
    "claim_2024": (
        "CLAIM 2024",
        "Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300. 44 items.",
    ),
    "stard_ai": (
        "STARD-AI 2025",
        "Sounderajah et al., Nature Medicine 2025;31:3283. 40 items, 48 with their parts.",
    ),
}
"""How each is known and where it is published, by the name of its file."""


def fill(evaluation: Evaluation) -> dict[str, list[Answered]]:
    """The items of every checklist in order, answered where the sweep can."""
    answers = _answers(evaluation)
    filled = {}
    for name in CHECKLISTS:
        items = []
        for section, entries in _shipped(name).items():
            for number_, (asks, *keys) in entries.items():
                given = [answers[key] for key in keys if answers[key][0]]
                items.append(
                    Answered(
                        number=str(number_),
                        section=section,
                        asks=asks,
                        answer=" ".join(text for text, _ in given),
                        evidence="; ".join(dict.fromkeys(evidence for _, evidence in given)),
                    )
                )
        filled[name] = items
    return filled


def _answers(evaluation: Evaluation) -> dict[str, tuple[str, str]]:
    """By key the sentences of answers.yaml with this sweep's facts, and their evidence."""
    environment, known = templates(), facts(evaluation)

    def render(template: str) -> str:
        return environment.from_string(template).render(known)

    return {
        key: (" ".join(filter(None, map(render, answer["says"]))), render(answer["evidence"]))
        for key, answer in _shipped("answers").items()
    }


def _shipped(name: str) -> dict[str, Any]:
    text = (files("evaluation.checklists") / f"{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def as_csv(items: Sequence[Answered]) -> str:
    """A file that a spreadsheet opens: item, section, asks for, answer, evidence."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["item", "section", "asks for (our wording)", "answer", "evidence"])
    for item in items:
        answer = item.answer or "for the authors"
        cells = (item.number, item.section, item.asks, answer, item.evidence)
        writer.writerow([as_text(cell) for cell in cells])
    return file.getvalue()

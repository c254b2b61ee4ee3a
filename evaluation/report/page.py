"""From sections, tables and figures to one HTML file."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from evaluation.checklists import CHECKLISTS, Answered
from evaluation.figures import Drawing
from evaluation.report import model_sections, patient_sections, study_sections
from evaluation.report.provenance import provenance, settings_view
from evaluation.report.results_section import results
from evaluation.report.views import Section
from evaluation.result import Evaluation
from evaluation.text.sentences import findings, headline, lacking_sentences, preface

_SECTIONS = (
    results,
    study_sections.patients,
    model_sections.discrimination,
    model_sections.operating,
    model_sections.contrasts,
    model_sections.calibration,
    model_sections.decision,
    patient_sections.instability,
    patient_sections.subgroups,
    patient_sections.readers,
    model_sections.transfer,
    study_sections.planning,
    study_sections.training,
    study_sections.openings,
)


_MODALITY_KEYS = ("modality", "modality_a", "modality_b")


def report_html(
    evaluation: Evaluation,
    drawings: Mapping[str, Drawing],
    checklists: Mapping[str, Sequence[Answered]],
) -> str:
    """The report as text, with figures and checklists by their names. It names no patient."""
    environment = Environment(
        loader=PackageLoader("evaluation", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"inline": _inline, "stacked": _stacked}
    own = files("evaluation") / "report"
    lacking = lacking_sentences(evaluation, if_none=True)
    return environment.get_template("page.html").render(
        sweep=evaluation.sweep,
        style=Markup((own / "page.css").read_text(encoding="utf-8")),
        script=Markup((own / "page.js").read_text(encoding="utf-8")),
        headline=headline(evaluation),
        repeats=evaluation.repeats,
        findings=findings(evaluation),
        preface=preface(evaluation),
        seal=evaluation.seal,
        drawings=drawings,
        sections=[
            _with_lacking(made, lacking)
            for section in _SECTIONS
            if (made := section(evaluation)) is not None
        ],
        provenance=provenance(evaluation),
        settings=settings_view(evaluation),
        checklists=[(name, *CHECKLISTS[name], items) for name, items in checklists.items()],
    )


def _with_lacking(section: Section, lacking: Sequence[str]) -> Section:
    """Under each table with figures of combined models: how many patients lack a modality."""
    views = [
        replace(view, notes=[*view.notes, *lacking])
        if any("combined" in (row.get(name) for name in _MODALITY_KEYS) for row in view.rows)
        else view
        for view in section.views
    ]
    return replace(section, views=views)


def _stacked(text: str) -> Markup:
    """A figure with its interval on a line of its own."""
    return Markup("<br>").join(text.replace(" (", "\n(").split("\n"))


def _inline(drawing: Drawing) -> Markup:
    """A figure as an SVG element whose ids are its own, for several stand in one document."""
    svg, name = drawing.svg, drawing.name
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{name}-", svg)
    return Markup(svg.replace("<svg ", '<svg aria-hidden="true" ', 1))

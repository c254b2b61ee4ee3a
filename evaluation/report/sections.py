"""The sections of the report after its first screen, in order."""

from evaluation.report import model_sections, study_sections
from evaluation.report.results_section import results
from evaluation.report.views import Section
from evaluation.result import Evaluation


def sections(evaluation: Evaluation) -> list[Section]:
    """All of them but provenance, checklists and methods, which are lists of their own."""
    makers = (
        results,
        study_sections.patients,
        model_sections.discrimination,
        model_sections.operating,
        model_sections.contrasts,
        model_sections.calibration,
        model_sections.decision,
        model_sections.transfer,
        study_sections.planning,
        study_sections.training,
        study_sections.openings,
    )
    return [make(evaluation) for make in makers]

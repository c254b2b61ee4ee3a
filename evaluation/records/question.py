"""What a sweep asks, in the words of its field; frozen in `sweep.json` with the analysis."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluation.errors import EvaluationError

_NOT_DECLARED = "Not declared in the sweep: for the authors."
_FIGURES = {"modality", "part", "patients", "events", "auc"}


@dataclass(frozen=True)
class Published:
    """Figures of another study, to stand beside ours: another cohort, marked so.

    Attributes:
        source: Where they are printed.
        rows: One a modality and part (`train`, `test`): `modality`, `part`, `patients`, `events`,
            `auc`, and where printed `low`, `high`, `sensitivity`, `specificity`, `accuracy`.
    """

    source: str
    rows: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if missing := _FIGURES - row.keys():
                raise EvaluationError(
                    f"question.published.rows must each have {', '.join(sorted(_FIGURES))}, got "
                    f"one without {', '.join(sorted(missing))}. Add it."
                )


@dataclass(frozen=True)
class Question:
    """What is asked of whom. Report, figures, model card, notebooks and dashboard take their words.

    Attributes:
        title: The question in a line, with its question mark.
        population: Who is studied.
        endpoint: What label 1 stands for.
        negative: Name of the class of label 0.
        positive: Name of the class of label 1.
        intended_use: By whom, when and for what the models are meant.
        reference_standard: What the labels come from.
        published: Figures of an earlier study of the same question.
    """

    title: str = "Which of two classes does a patient belong to?"
    population: str = "the patients of the cohort"
    endpoint: str = "label 1 of the cohort table"
    negative: str = "label 0"
    positive: str = "label 1"
    intended_use: str = _NOT_DECLARED
    reference_standard: str = _NOT_DECLARED
    published: Published | None = field(default=None)

    def __post_init__(self) -> None:
        for name in ("title", "population", "endpoint", "negative", "positive"):
            text = getattr(self, name)
            if not text.strip() or not text.isprintable():
                raise EvaluationError(
                    f"question.{name} must be words in one line, got {text!r}. Write it in the "
                    "sweep's question."
                )
        if self.negative == self.positive:
            raise EvaluationError(
                f"question.negative and question.positive must differ, got {self.negative!r} for "
                "both. Name the two classes."
            )


def read_question(declared: Mapping[str, Any]) -> Question:
    """The question as `sweep.json` holds it; neutral words for a sweep that asks none.

    Raises:
        EvaluationError: for a key or value that is not of the schema.
    """
    try:
        published = declared.get("published")
        if published:
            rows = tuple(dict(row) for row in published["rows"])
            published = Published(source=str(published["source"]), rows=rows)
        return Question(**{**declared, "published": published or None})
    except EvaluationError:
        raise
    except (TypeError, KeyError, AttributeError, ValueError) as error:
        raise EvaluationError(
            f"question in sweep.json must be as the sweep froze it, got {error}. Bring back the "
            "file."
        ) from error

"""What is declared before training: the one primary contrast and the operating points."""

from dataclasses import dataclass
from typing import Any

from evaluation.errors import EvaluationError


@dataclass(frozen=True)
class Primary:
    """The contrast that the study is about; all others are secondary.

    Attributes:
        modalities: Two of them; the difference is the first less the second.
        architecture: Of both; `selected` is for each modality the one with the highest
            out-of-fold AUC, so that the test set has no part in the choice.
    """

    modalities: tuple[str, str]
    architecture: str = "selected"


@dataclass(frozen=True)
class Analysis:
    """Choices of the analysis, frozen in `sweep.json` before the first run.

    Attributes:
        primary: The one contrast tested without adjustment; every other is adjusted.
        sensitivity: Operating point besides Youden's: the best specificity at this sensitivity.
        probabilities: Further operating points: predicted probabilities from which to act.
    """

    primary: Primary | None = None
    sensitivity: float = 0.90
    probabilities: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.primary and len(set(self.primary.modalities)) != 2:
            raise EvaluationError(
                f"primary.modalities must be two that differ, got {list(self.primary.modalities)}. "
                "Name the two modalities to compare."
            )
        if not 0 < self.sensitivity <= 1:
            raise EvaluationError(
                f"sensitivity must be above 0 and at most 1, got {self.sensitivity!r}. "
                "Give 0.9 for 90 %."
            )
        if not all(0 < p < 1 for p in self.probabilities):
            raise EvaluationError(
                f"probabilities must be above 0 and below 1, got {list(self.probabilities)!r}. "
                "Give risks at which you would act."
            )


def read_analysis(declared: dict[str, Any]) -> Analysis:
    """The analysis as `sweep.json` holds it.

    Raises:
        EvaluationError: for a key or value that is not of the schema.
    """
    try:
        primary = declared.get("primary")
        return Analysis(
            **declared
            | {
                "primary": primary
                and Primary(**primary | {"modalities": tuple(primary["modalities"])}),
                "probabilities": tuple(declared.get("probabilities", ())),
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise EvaluationError(
            f"analysis in sweep.json must be as the sweep froze it, got {declared!r} ({error}). "
            "Bring back the file."
        ) from error

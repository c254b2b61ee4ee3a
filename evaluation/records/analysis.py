"""What is declared before training: the one primary contrast and the operating points."""

from dataclasses import dataclass
from typing import Any, Literal

from evaluation.errors import EvaluationError

MEAN, SELECTED = "mean", "selected"
"""What `primary.architecture` may say besides the name of one."""

_TUPLES = ("probabilities", "net_benefit_range")


@dataclass(frozen=True)
class Primary:
    """The contrast that the study is about; all others are secondary.

    Attributes:
        modalities: Two of them; the difference is the first less the second.
        architecture: `mean` compares the mean AUC over all architectures of either modality; the
            name of one compares that of both. `selected` takes for each modality the one with the
            highest out-of-fold AUC: a test on the hold-out, which has no part in the choice; on
            the patients that it was chosen on it is exploratory.
        part: The confirmatory one, `oof` (out-of-fold) or `test` (the hold-out); the other is
            secondary. By default `oof`, for `selected` architectures `test`.
    """

    modalities: tuple[str, str]
    architecture: str = MEAN
    part: Literal["oof", "test"] | None = None

    def __post_init__(self) -> None:
        if self.part is None:
            object.__setattr__(self, "part", "test" if self.architecture == SELECTED else "oof")


@dataclass(frozen=True)
class Analysis:
    """Choices of the analysis, frozen in `sweep.json` before the first run.

    Attributes:
        primary: The one contrast tested without adjustment; every other is adjusted.
        sensitivity: Operating point besides Youden's: the best specificity at this sensitivity.
        probabilities: Further operating points: predicted probabilities from which to act.
        subgroup_events: Fewest events of a group of patients whose figures are given, 2 or more.
        subgroup_non_events: The same of non-events.
        npv: A further one, to rule out: as many as possible called negative, of whom at least this
            share is. None by default, for what is high depends on the prevalence: at 3 % calling
            everyone negative reaches 0.97, at 20 % 0.80.
        net_benefit_range: Lowest and highest risk at which one would sensibly act: over it the
            difference in net benefit of the primary contrast is averaged.
    """

    primary: Primary | None = None
    sensitivity: float = 0.90
    probabilities: tuple[float, ...] = ()
    subgroup_events: int = 10
    subgroup_non_events: int = 10
    npv: float | None = None
    net_benefit_range: tuple[float, float] = (0.05, 0.40)

    def __post_init__(self) -> None:
        if self.primary and len(set(self.primary.modalities)) != 2:
            raise EvaluationError(
                f"primary.modalities must be two that differ, got {list(self.primary.modalities)}. "
                "Name the two modalities to compare."
            )
        # Not of Primary itself, whose errors the parser of a sweep's YAML would wrap.
        if self.primary:
            if self.primary.part not in ("oof", "test"):
                raise EvaluationError(
                    f"primary.part must be oof or test, got {self.primary.part!r}. "
                    "Name the part that the confirmatory test is made on."
                )
            if (self.primary.architecture, self.primary.part) == (SELECTED, "oof"):
                raise EvaluationError(
                    "primary.part must be test where primary.architecture is selected, got oof. "
                    "Architectures cannot be chosen and tested on the same patients: set part: "
                    "test, or architecture: mean."
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
        for name in ("subgroup_events", "subgroup_non_events"):
            if getattr(self, name) < 2:
                raise EvaluationError(
                    f"{name} must be 2 or more, got {getattr(self, name)!r}. With one patient of a "
                    "class nothing has an interval."
                )
        if self.npv is not None and not 0 < self.npv < 1:
            raise EvaluationError(
                f"npv must be above 0 and below 1, got {self.npv!r}. Give 0.95 for 95 %, or null."
            )
        if len(self.net_benefit_range) != 2 or not (
            0.01 <= self.net_benefit_range[0] <= self.net_benefit_range[1] <= 0.99
        ):
            raise EvaluationError(
                "net_benefit_range must be two risks from 0.01 to 0.99, the lower first, got "
                f"{list(self.net_benefit_range)!r}. Give the risks between which you would act."
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
                and Primary(**primary | {"modalities": tuple(primary["modalities"])})
            }
            | {name: tuple(declared[name]) for name in _TUPLES if name in declared}
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise EvaluationError(
            f"analysis in sweep.json must be as the sweep froze it, got {declared!r} ({error}). "
            "Bring back the file."
        ) from error

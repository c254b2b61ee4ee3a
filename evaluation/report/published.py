"""The figures that the reference study prints, to stand beside ours: another cohort, marked so.

Frontiers in Endocrinology 2025, doi 10.3389/fendo.2025.1634875, abstract; the modality that it
calls CEUS video is our `video`.
"""

from dataclasses import dataclass

SOURCE = "doi 10.3389/fendo.2025.1634875"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One model of the reference study on one part of its cohort.

    Attributes:
        part: "train" (55 of 280 positive) or "test" (27 of 116).
        modality: As ours.
        auc: With its printed 95 % interval in `low` and `high`.
        low: Lower end.
        high: Upper end.
        sensitivity: As printed.
        specificity: As printed.
        accuracy: As printed.
    """

    part: str
    modality: str
    auc: float
    low: float
    high: float
    sensitivity: float
    specificity: float
    accuracy: float

    @property
    def patients(self) -> int:
        """Patients of the part."""
        return 280 if self.part == "train" else 116

    @property
    def events(self) -> int:
        """Of them with metastasis."""
        return 55 if self.part == "train" else 27


PUBLISHED = tuple(
    Published(
        part=part,
        modality=modality,
        auc=auc,
        low=low,
        high=high,
        sensitivity=sensitivity,
        specificity=specificity,
        accuracy=accuracy,
    )
    for part, modality, auc, low, high, sensitivity, specificity, accuracy in (
        ("train", "image", 0.759, 0.690, 0.828, 0.673, 0.716, 0.707),
        ("train", "video", 0.826, 0.771, 0.881, 0.836, 0.671, 0.704),
        ("train", "combined", 0.926, 0.891, 0.962, 0.818, 0.902, 0.886),
        ("test", "image", 0.624, 0.502, 0.745, 0.556, 0.674, 0.647),
        ("test", "video", 0.701, 0.589, 0.813, 0.556, 0.775, 0.724),
        ("test", "combined", 0.734, 0.627, 0.842, 0.704, 0.663, 0.672),
    )
)
"""All six, in the order of the modalities."""

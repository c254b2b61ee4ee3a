"""How large, how long and how hard a phantom cohort is."""

from dataclasses import dataclass, replace

from datamodules.errors import DataError


def _is_size(size: tuple[int, int]) -> bool:
    return all(side >= 32 and side % 2 == 0 for side in size)


@dataclass(frozen=True, kw_only=True)
class PhantomPreset:
    """What a phantom cohort is like.

    Args:
        patients: Number of patients.
        positives: How many of them have metastasis.
        test_patients: Size of the hold-out named in the table's `split` column; 0: no such column.
        test_positives: How many of the hold-out's patients are positive.
        image_auc: Best reachable AUC from the image.
        video_auc: Best reachable AUC from the clip.
        clip_seconds: Shortest and longest clip.
        fps: Lowest and highest frame rate, whole frames per second.
        clip_size: (width, height) of clips in pixels.
        image_size: (width, height) of images in pixels.
        depth_mm: Depth shown by images.
        clip_depth_mm: Depth shown by clips.
        time_scale: 1 for real time; 0.3 makes the bolus run 1/0.3 times faster.
        repeat_share: Chance of a second image, and of a second clip, for each patient.

    Raises:
        DataError: A value is out of its range.
    """

    patients: int
    positives: int
    test_patients: int = 0
    test_positives: int = 0
    image_auc: float
    video_auc: float
    clip_seconds: tuple[float, float]
    fps: tuple[int, int]
    clip_size: tuple[int, int]
    image_size: tuple[int, int]
    depth_mm: float
    clip_depth_mm: float
    time_scale: float
    repeat_share: float = 0.08

    def __post_init__(self) -> None:
        no_test = self.test_patients == 0 == self.test_positives
        train_positives = self.positives - self.test_positives
        both_in_train = 0 < train_positives < self.patients - self.test_patients
        both_in_test = no_test or 0 < self.test_positives < self.test_patients
        shortest, longest = self.clip_seconds
        slowest, fastest = self.fps
        for name, rule, holds in (
            ("positives", "such that both classes occur outside the hold-out", both_in_train),
            ("test_positives", "such that both classes occur in the hold-out", both_in_test),
            ("image_auc", "between 0.5 and 1", 0.5 < self.image_auc < 1),
            ("video_auc", "between 0.5 and 1", 0.5 < self.video_auc < 1),
            ("clip_seconds", "positive, shortest first", 0 < shortest <= longest),
            ("fps", "at least 1, lowest first", 1 <= slowest <= fastest),
            ("clip_size", "two even numbers, 32 or more", _is_size(self.clip_size)),
            ("image_size", "two even numbers, 32 or more", _is_size(self.image_size)),
            ("depth_mm", "20 to 60", 20 <= self.depth_mm <= 60),
            ("clip_depth_mm", "20 to 60", 20 <= self.clip_depth_mm <= 60),
            ("time_scale", "above 0 and at most 1", 0 < self.time_scale <= 1),
            ("repeat_share", "0 to 1", 0 <= self.repeat_share <= 1),
        ):
            if not holds:
                raise DataError(
                    f"{name} must be {rule}, got {getattr(self, name)!r} (phantom of "
                    f"{self.patients} patients). Change the preset or the number of patients."
                )

    def with_patients(self, patients: int) -> "PhantomPreset":
        """The same cohort at another size: class shares and hold-out share are kept."""
        share = patients / self.patients
        return replace(
            self,
            patients=patients,
            positives=round(self.positives * share),
            test_patients=round(self.test_patients * share),
            test_positives=round(self.test_positives * share),
        )


# `published`: sizes and test AUCs of the reference study, Frontiers in Endocrinology 2025,
# doi 10.3389/fendo.2025.1634875. `demo` is easier, smaller, faster and nearer to balance, so that
# small networks trained from scratch on a CPU show what the phantom holds.
PRESETS = {
    "demo": PhantomPreset(
        patients=400,
        positives=160,
        image_auc=0.80,
        video_auc=0.90,
        clip_seconds=(15.0, 15.0),
        fps=(8, 8),
        clip_size=(128, 128),
        image_size=(256, 256),
        depth_mm=22.0,
        clip_depth_mm=25.0,
        time_scale=0.3,
    ),
    "published": PhantomPreset(
        patients=396,
        positives=82,
        test_patients=116,
        test_positives=27,
        image_auc=0.624,
        video_auc=0.701,
        clip_seconds=(40.0, 60.0),
        fps=(8, 15),
        clip_size=(320, 240),
        image_size=(640, 480),
        depth_mm=30.0,
        clip_depth_mm=30.0,
        time_scale=1.0,
    ),
}

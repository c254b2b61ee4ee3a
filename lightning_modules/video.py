"""The classifier of CEUS clips."""

from lightning_modules.image import ImageClassifier


class VideoClassifier(ImageClassifier):
    """A 3D video encoder with a linear head; each window of a clip is scored on its own.

    The encoder takes `(B, 3, T, H, W)` and gives `(B, num_features)`; all arguments are those of
    `ImageClassifier`.
    """

    _key = "video"

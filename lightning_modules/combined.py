"""The classifier of image and clip together, by late fusion."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from lightning_modules.base import PatientClassifier


class CombinedClassifier(PatientClassifier):
    """Two encoders whose features meet in a fusion head.

    Args:
        image_encoder: Takes `(B, 3, H, W)`, gives `(B, num_features)`, has `num_features`.
        video_encoder: The same for `(B, 3, T, H, W)`.
        head: A fusion head of `backbones` (or one of the same contract), still to be called with
            the two feature widths. It takes `image (B, Fi), video (B, Fv), present_image (B,),
            present_video (B,)` and gives logits `(B,)`.
        **settings: Settings of the base class.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        video_encoder: nn.Module,
        head: Callable[[int, int], nn.Module],
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.image_encoder = image_encoder
        self.video_encoder = video_encoder
        self.head = head(image_encoder.num_features, video_encoder.num_features)  # type: ignore[arg-type]

    def encoders(self) -> tuple[nn.Module, ...]:
        """Both encoders."""
        return (self.image_encoder, self.video_encoder)

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Logits `(B,)` of the rows' image and window."""
        logits: Tensor = self.head(
            self.image_encoder(batch["image"]),
            self.video_encoder(batch["video"]),
            batch["present_image"],
            batch["present_video"],
        )
        return logits

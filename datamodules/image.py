"""2D ultrasound images, one row each."""

from typing import Any

from datamodules.base import Input, PatientDataModule


class ImageDataModule(PatientDataModule):
    """Batches of images.

    Args:
        image_size: Side in pixels that the encoder gets.
        image_mean: Mean of the encoder's pretraining data per channel, 0 to 1.
        image_std: Its standard deviation per channel, above 0.
        **settings: Settings of the base class.
    """

    def __init__(
        self,
        *,
        image_size: int,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.inputs = {"image": Input(image_size, image_mean, image_std)}

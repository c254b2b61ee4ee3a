"""The three datamodules: images, CEUS clips, both."""

from typing import Any

from datamodules.batches.datamodule import PatientDataModule
from datamodules.batches.inputs import Input
from datamodules.batches.sampling import FrameSampling


class CeusVideoDataModule(PatientDataModule):
    """Batches of windows of CEUS clips.

    Args:
        video_size: Side in pixels that the encoder gets.
        video_mean: Mean of the encoder's pretraining data per channel, 0 to 1.
        video_std: Its standard deviation per channel, above 0.
        train_sampling: Frames in training; one of its windows per clip and epoch.
        eval_sampling: Frames in evaluation; every window is a row.
        **settings: Settings of the base class.
    """

    def __init__(
        self,
        *,
        video_size: int,
        video_mean: tuple[float, float, float],
        video_std: tuple[float, float, float],
        train_sampling: FrameSampling,
        eval_sampling: FrameSampling,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.inputs = {"video": Input(video_size, video_mean, video_std)}
        self.train_sampling, self.eval_sampling = train_sampling, eval_sampling


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


class CombinedDataModule(PatientDataModule):
    """Batches of pairs of an image and a window of a CEUS clip.

    A patient that lacks one of the two has a zero tensor in its place, and `present_image` or
    `present_video` False.

    Args:
        image_size: Side in pixels that the image encoder gets.
        image_mean: Mean of its pretraining data per channel, 0 to 1.
        image_std: Standard deviation of the same, above 0.
        video_size: Side in pixels that the video encoder gets.
        video_mean: Mean of its pretraining data per channel, 0 to 1.
        video_std: Standard deviation of the same, above 0.
        train_sampling: Frames in training; one of its windows per pair and epoch.
        eval_sampling: Frames in evaluation; every window is a row.
        **settings: Settings of the base class.
    """

    def __init__(
        self,
        *,
        image_size: int,
        image_mean: tuple[float, float, float],
        image_std: tuple[float, float, float],
        video_size: int,
        video_mean: tuple[float, float, float],
        video_std: tuple[float, float, float],
        train_sampling: FrameSampling,
        eval_sampling: FrameSampling,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.inputs = {
            "image": Input(image_size, image_mean, image_std),
            "video": Input(video_size, video_mean, video_std),
        }
        self.train_sampling, self.eval_sampling = train_sampling, eval_sampling

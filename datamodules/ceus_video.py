"""CEUS clips: one random window each in training, every window in evaluation."""

from typing import Any

from datamodules.base import Input, PatientDataModule
from datamodules.sampling import FrameSampling


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

"""Frames as images: any timm network on each frame of a clip, its features pooled over time."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from backbones._probe import check_input, check_length, feature_width
from backbones.errors import EncoderError
from backbones.image import create_timm, published_timm

Pooling = Literal["mean", "mean_sd", "attention"]


class FrameVideoEncoder(nn.Module):
    """A timm image network on every frame: `(B, 3, T, H, W)` float to `(B, num_features)`.

    Takes every image checkpoint there is. Order in time has no say but through the frames' own
    content: what contrast does over a clip is seen in the mean and spread of the features.

    Args:
        name: any name of `timm.list_models()`.
        pretrained: true to download timm's weights, a file with weights for this network, or
            false for random ones.
        video_size: side of the square frames, pixels.
        num_frames: frames of a clip; None for any.
        pooling: `mean` over frames; `mean_sd`, mean and standard deviation side by side; or
            `attention`, a mean whose weights are learned (Ilse, Tomczak & Welling 2018, eq. 8).
        model_args: further arguments of the network's constructor.

    Attributes:
        num_features: width of the features.

    Raises:
        EncoderError: unknown name, argument or pooling, unusable weights, or frames too small.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool | Path = False,
        video_size: int,
        num_frames: int | None = None,
        pooling: Pooling = "mean_sd",
        model_args: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise EncoderError(
                f"pooling must be one of {', '.join(get_args(Pooling))}, got {pooling!r}."
            )
        if num_frames is not None:
            check_length("num_frames", num_frames, name=name)
        self.name, self.video_size, self.num_frames = name, video_size, num_frames
        self.pooling = pooling
        self.net = create_timm(
            name, pretrained=pretrained, image_size=video_size, model_args=model_args
        )
        width = feature_width(
            self.net,
            lambda side: (1, 3, side, side),
            size=video_size,
            name=name,
            setting="video_size",
        )
        self.num_features = 2 * width if pooling == "mean_sd" else width
        self.attention = nn.Sequential(nn.Linear(width, 64), nn.Tanh(), nn.Linear(64, 1))
        if pooling != "attention":
            del self.attention

    published = staticmethod(published_timm)
    """Of a name, the weights that `pretrained: true` downloads."""

    def forward(self, video: Tensor) -> Tensor:
        """Features `(B, num_features)` of `video (B, 3, T, H, W)`, normalised float.

        Raises:
            EncoderError: the video is of another shape.
        """
        shape = (None, 3, self.num_frames, self.video_size, self.video_size)
        check_input(video, shape, layout="B, 3, T, H, W", who=self.name)
        frames = video.transpose(1, 2).flatten(0, 1)
        features: Tensor = self.net(frames).unflatten(0, (video.shape[0], video.shape[2]))
        if self.pooling == "attention":
            weights = torch.softmax(self.attention(features), dim=1)
            return (weights * features).sum(1)
        mean = features.mean(1)
        if self.pooling == "mean":
            return mean
        # Biased, and away from 0, where a square root has no gradient: a clip may stand still.
        spread = features.var(1, correction=0).clamp(min=1e-8).sqrt()
        return torch.cat([mean, spread], dim=1)

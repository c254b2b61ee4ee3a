"""Networks: image encoders, video encoders and the heads that fuse them. No Lightning.

An encoder of your own is an `nn.Module` with an attribute `num_features` that takes
`(B, 3, H, W)` images or `(B, 3, T, H, W)` clips, normalised float, and gives
`(B, num_features)`. A fusion head is made with the two feature widths and called as
`head(image, video, present_image, present_video)`; it gives logits `(B,)`.
"""

from backbones.errors import EncoderError
from backbones.fusion import AverageLogitFusion, ConcatFusion, GatedFusion, WeightedLogitFusion
from backbones.image import TimmImageEncoder
from backbones.inflate import InflatedVideoEncoder
from backbones.video import TorchvisionVideoEncoder

__all__ = [
    "AverageLogitFusion",
    "ConcatFusion",
    "EncoderError",
    "GatedFusion",
    "InflatedVideoEncoder",
    "TimmImageEncoder",
    "TorchvisionVideoEncoder",
    "WeightedLogitFusion",
]

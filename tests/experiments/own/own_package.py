"""What a user of the framework might bring: encoders and a LightningModule of their own."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules import ImageClassifier


class TinyEncoder(nn.Module):
    """Channel means and spreads of an image or a clip, through one layer."""

    def __init__(self, num_features: int = 4, fail: bool = False) -> None:
        super().__init__()
        if fail:
            raise RuntimeError("this encoder was told to fail")
        self.num_features = num_features
        self.layer = nn.Linear(6, num_features)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2)
        return self.layer(torch.cat([pixels.mean(2), pixels.std(2)], 1)).tanh()


class NormedEncoder(TinyEncoder):
    """The same with a convolution and a batch norm before it."""

    def __init__(self, num_features: int = 4, dimensions: int = 2) -> None:
        super().__init__(num_features)
        conv, norm = {2: (nn.Conv2d, nn.BatchNorm2d), 3: (nn.Conv3d, nn.BatchNorm3d)}[dimensions]
        self.stem = nn.Sequential(conv(3, 3, 3, padding=1), norm(3))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.stem(x))


class OwnClassifier(ImageClassifier):
    """An image classifier with a temperature."""

    def __init__(self, encoder: nn.Module, *, temperature: float, **settings: Any) -> None:
        super().__init__(encoder, **settings)
        self.temperature = temperature

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        return super().logits(batch) / self.temperature


class WrongRows(ImageClassifier):
    """Gives something else than rows."""

    def predict_step(
        self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, list[Any]]:
        return {"nothing": []}

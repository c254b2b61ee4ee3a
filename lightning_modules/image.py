"""The classifier of 2D ultrasound images."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.base import PatientClassifier
from lightning_modules.probe import LinearRule


class ImageClassifier(PatientClassifier):
    """An image encoder with a linear head; each image is scored on its own.

    Args:
        encoder: Takes `(B, 3, H, W)`, gives `(B, num_features)`, has `num_features`.
        dropout: Share of features dropped before the head in training, in [0, 1).
        **settings: Settings of the base class.
    """

    _key = "image"

    def __init__(self, encoder: nn.Module, *, dropout: float = 0.0, **settings: Any) -> None:
        super().__init__(**settings)
        self.encoder = encoder
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(encoder.num_features, 1))  # type: ignore[arg-type]

    def encoders(self) -> tuple[nn.Module, ...]:
        """The one encoder."""
        return (self.encoder,)

    def encoder_of(self, modality: str) -> nn.Module:  # noqa: ARG002
        """The one encoder."""
        return self.encoder

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Features of the rows' images (in the video classifier: clips)."""
        return {self._key: self.features(self.encoder, batch[self._key])}

    def head_logits(self, features: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:  # noqa: ARG002
        """Logits `(B,)` by the linear layer."""
        return self.score(self.head, features[self._key]).squeeze(1)

    def set_rule(self, rule: LinearRule) -> None:
        """Weights and bias of the linear layer."""
        linear = self.head[-1]
        linear.weight.copy_(torch.as_tensor(rule.weights[self._key])[None])  # type: ignore[operator]
        linear.bias.fill_(rule.bias + rule.offsets[self._key])  # type: ignore[operator]

    def shift_head(self, shift: Tensor) -> None:
        """Add to the linear layer's bias."""
        self.head[-1].bias.add_(shift)  # type: ignore[operator]

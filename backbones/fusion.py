"""Late fusion: from the features of an image and of a clip to one logit.

Every head scores a patient who lacks a modality from the other one: whatever the tensor of the
absent modality holds, NaN included, has no influence on the logit. At least one must be present.
"""

from typing import Any

import torch
from torch import Tensor, nn

from backbones.errors import EncoderError


class _Fusion(nn.Module):
    """What the heads share: the checks, and features that are zero where absent."""

    def __init__(self, image_features: int, video_features: int) -> None:
        super().__init__()
        self.image_features = image_features
        self.video_features = video_features

    def _masked(
        self, image: Tensor, video: Tensor, present_image: Tensor, present_video: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The features, zero where absent.

        Raises:
            EncoderError: features of another width than the head was built for.
        """
        widths = (image.shape[1:], video.shape[1:])
        if widths != ((self.image_features,), (self.video_features,)):
            raise EncoderError(
                f"features must be of width {self.image_features} (image) and "
                f"{self.video_features} (video), got shapes {tuple(image.shape)} and "
                f"{tuple(video.shape)}. Build the head from the encoders' num_features."
            )
        # `where`, not multiplication: 0 × NaN is NaN.
        return (
            torch.where(present_image[:, None], image, 0.0),
            torch.where(present_video[:, None], video, 0.0),
        )


def _check_settings(*, hidden: int = 1, dropout: float) -> None:
    """Refuse settings that a head cannot be built with.

    Raises:
        EncoderError: names the setting.
    """
    if hidden < 1:
        raise EncoderError(f"hidden must be at least 1, got {hidden}. 128 is usual.")
    if not 0 <= dropout < 1:
        raise EncoderError(f"dropout must be from 0 to below 1, got {dropout}. 0.2 is usual.")


class ConcatFusion(_Fusion):
    """Concatenated features through a small head; an absent modality contributes zeros.

    Each modality is layer-normalised first, so that neither outweighs the other by its scale.

    Args:
        image_features: width of the image features.
        video_features: width of the video features.
        hidden: width of the hidden layer.
        dropout: share of hidden units dropped in training, 0 to below 1.

    Raises:
        EncoderError: `hidden` or `dropout` out of range.
    """

    def __init__(
        self, image_features: int, video_features: int, *, hidden: int = 128, dropout: float = 0.2
    ) -> None:
        _check_settings(hidden=hidden, dropout=dropout)
        super().__init__(image_features, video_features)
        self.image_norm = nn.LayerNorm(image_features)
        self.video_norm = nn.LayerNorm(video_features)
        self.head = nn.Sequential(
            nn.Linear(image_features + video_features, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )

    def forward(
        self, image: Tensor, video: Tensor, present_image: Tensor, present_video: Tensor
    ) -> Tensor:
        """Logit `(B,)` from features `(B, Fi)`, `(B, Fv)` and presence `(B,)` bool.

        Raises:
            EncoderError: features of another width than the head was built for.
        """
        image, video = self._masked(image, video, present_image, present_video)
        # Masked again after the norm, whose bias would otherwise speak for the absent.
        both = self._masked(
            self.image_norm(image), self.video_norm(video), present_image, present_video
        )
        logit: Tensor = self.head(torch.cat(both, dim=1)).squeeze(1)
        return logit


class GatedFusion(_Fusion):
    """A patient-wise weighted mean of the two projected modalities, then a linear layer.

    The weights are a softmax over the modalities present, as in gated attention pooling
    (Ilse, Tomczak & Welling 2018) with a modality in the place of an instance.

    Args:
        image_features: width of the image features.
        video_features: width of the video features.
        hidden: width that both modalities are projected to.
        dropout: share of hidden units dropped in training, 0 to below 1.

    Raises:
        EncoderError: `hidden` or `dropout` out of range.
    """

    def __init__(
        self, image_features: int, video_features: int, *, hidden: int = 128, dropout: float = 0.2
    ) -> None:
        _check_settings(hidden=hidden, dropout=dropout)
        super().__init__(image_features, video_features)
        self.project_image = _projection(image_features, hidden)
        self.project_video = _projection(video_features, hidden)
        self.gate = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(hidden, 1))

    def forward(
        self, image: Tensor, video: Tensor, present_image: Tensor, present_video: Tensor
    ) -> Tensor:
        """Logit `(B,)` from features `(B, Fi)`, `(B, Fv)` and presence `(B,)` bool.

        Raises:
            EncoderError: features of another width than the head was built for.
        """
        image, video = self._masked(image, video, present_image, present_video)
        tokens = torch.stack([self.project_image(image), self.project_video(video)], dim=1)
        scores = self.gate(tokens).squeeze(2)
        weights = _softmax_over_present(scores, present_image, present_video)
        logit: Tensor = self.head((weights[:, :, None] * tokens).sum(dim=1)).squeeze(1)
        return logit


class WeightedLogitFusion(_Fusion):
    """A linear head per modality; their logits averaged with two learned weights.

    The weights are a softmax over the modalities present: a patient with one modality gets that
    modality's own logit.

    Args:
        image_features: width of the image features.
        video_features: width of the video features.
        dropout: share of features dropped in training, 0 to below 1.

    Raises:
        EncoderError: `dropout` out of range.
    """

    def __init__(self, image_features: int, video_features: int, *, dropout: float = 0.2) -> None:
        _check_settings(dropout=dropout)
        super().__init__(image_features, video_features)
        self.image_head = nn.Sequential(nn.Dropout(dropout), nn.Linear(image_features, 1))
        self.video_head = nn.Sequential(nn.Dropout(dropout), nn.Linear(video_features, 1))
        self.scores = nn.Parameter(torch.zeros(2))

    def forward(
        self, image: Tensor, video: Tensor, present_image: Tensor, present_video: Tensor
    ) -> Tensor:
        """Logit `(B,)` from features `(B, Fi)`, `(B, Fv)` and presence `(B,)` bool.

        Raises:
            EncoderError: features of another width than the head was built for.
        """
        image, video = self._masked(image, video, present_image, present_video)
        logits = torch.cat([self.image_head(image), self.video_head(video)], dim=1)
        weights = _softmax_over_present(self.scores.expand_as(logits), present_image, present_video)
        return (weights * logits).sum(dim=1)


class AverageLogitFusion(_Fusion):
    """The plain average of two unimodal logits: the baseline that no fusion has to be trained for.

    Its heads are those of an image and of a video classifier, which `CombinedClassifier.start_from`
    brings. Each was trained to its own balance of the classes, which shifts its logits, so the
    shift is taken off before they are averaged. A patient with one modality gets that modality's
    own logit.

    Args:
        image_features: width of the image features.
        video_features: width of the video features.
    """

    untrained = True
    """Nothing is to be trained, the encoders neither."""

    def __init__(self, image_features: int, video_features: int) -> None:
        super().__init__(image_features, video_features)
        self.image_head = nn.Sequential(nn.Dropout(0.0), nn.Linear(image_features, 1))
        self.video_head = nn.Sequential(nn.Dropout(0.0), nn.Linear(video_features, 1))
        self.image_shift: Tensor
        self.video_shift: Tensor
        for name in ("image_shift", "video_shift"):
            self.register_buffer(name, torch.tensor(0.0))

    def forward(
        self, image: Tensor, video: Tensor, present_image: Tensor, present_video: Tensor
    ) -> Tensor:
        """Logit `(B,)` from features `(B, Fi)`, `(B, Fv)` and presence `(B,)` bool.

        Raises:
            EncoderError: features of another width than the head was built for.
        """
        image, video = self._masked(image, video, present_image, present_video)
        own = (self.image_head(image) - self.image_shift, self.video_head(video) - self.video_shift)
        logits = torch.cat(own, dim=1)
        weights = _softmax_over_present(torch.zeros_like(logits), present_image, present_video)
        return (weights * logits).sum(dim=1)


class SumLogitFusion(_Fusion):
    """The sum of a linear score of each modality: `bias + image_head + video_head`.

    Where the modalities are independent given the class, the sum of their log-odds is the best rule
    there is (Neyman & Pearson 1933), so this is the head that a probe's solution fits into. An
    absent modality adds nothing. Its heads are those of an image and of a video classifier, which
    `CombinedClassifier.start_from` brings.

    Fine-tuned on few patients a network is surer than they warrant, and in a sum the surer modality
    has the say. So outside of training each is believed as if in a share `doubt` of the patients
    its evidence spoke for the other class: its log-odds stay below `log(1 / doubt - 1)`, and small
    ones nearly as they are (the probability ratio of a contaminated model, Huber 1965, Ann. Math.
    Stat. 36:1753). Training sets the share, one patient in all; it is 0 until then, so a probe's
    solution, whose penalty was chosen on held-out patients, is believed as it is.

    Args:
        image_features: width of the image features.
        video_features: width of the video features.
    """

    def __init__(self, image_features: int, video_features: int) -> None:
        super().__init__(image_features, video_features)
        self.image_head = nn.Sequential(nn.Dropout(0.0), nn.Linear(image_features, 1))
        self.video_head = nn.Sequential(nn.Dropout(0.0), nn.Linear(video_features, 1))
        self.bias = nn.Parameter(torch.zeros(1))
        self.doubt: Tensor
        self.register_buffer("doubt", torch.tensor(0.0))

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        # Weights of before modalities were doubted score as they did.
        state_dict.setdefault(f"{prefix}doubt", torch.tensor(0.0))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def forward(
        self, image: Tensor, video: Tensor, present_image: Tensor, present_video: Tensor
    ) -> Tensor:
        """Logit `(B,)` from features `(B, Fi)`, `(B, Fv)` and presence `(B,)` bool.

        Raises:
            EncoderError: features of another width than the head was built for.
        """
        image, video = self._masked(image, video, present_image, present_video)
        logits = torch.cat([self.image_head(image), self.video_head(video)], dim=1)
        if not self.training:
            kept, swapped = torch.log1p(-self.doubt), torch.log(self.doubt)
            logits = torch.logaddexp(logits + kept, swapped) - torch.logaddexp(
                logits + swapped, kept
            )
        present = torch.stack([present_image, present_video], dim=1)
        return self.bias + torch.where(present, logits, 0.0).sum(dim=1)


def _projection(features: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(features), nn.Linear(features, hidden), nn.ReLU())


def _softmax_over_present(scores: Tensor, present_image: Tensor, present_video: Tensor) -> Tensor:
    """Softmax of `scores (B, 2)` over the modalities present; exactly 0 for an absent one."""
    absent = ~torch.stack([present_image, present_video], dim=1)
    return scores.masked_fill(absent, torch.finfo(scores.dtype).min).softmax(dim=1)

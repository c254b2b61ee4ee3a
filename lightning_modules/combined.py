"""The classifier of image and clip together, by late fusion."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lightning_modules.base import PatientClassifier, is_share, require
from lightning_modules.probe import LinearRule

_BOTH = ("image", "video")


class CombinedClassifier(PatientClassifier):
    """Two encoders whose features meet in a fusion head.

    Args:
        image_encoder: Takes `(B, 3, H, W)`, gives `(B, num_features)`, has `num_features`.
        video_encoder: The same for `(B, 3, T, H, W)`.
        head: A fusion head of `backbones` (or one of the same contract), still to be called with
            the two feature widths. It takes `image (B, Fi), video (B, Fv), present_image (B,),
            present_video (B,)` and gives logits `(B,)`.
        modality_dropout: Share of the training rows with both modalities whose head is shown one
            only, either with equal chance, in [0, 1]. So the stronger modality cannot keep the
            weaker one from learning (ModDrop, Neverova et al. 2016).
        unimodal_loss: Share of the loss that is the sum of each modality's own, the head shown that
            modality only, in [0, 1] (cf. Wang et al. 2020, arXiv:1905.12681). Of the loss of both
            together the modality that fits faster leaves the other nothing to learn; with 1 each
            learns as if it were alone, and only a head that adds their scores can take that. What
            such a head adds for both, the log-odds of the share of positives, is not trained then.
        start_share: As of any classifier, a number or `{image: ..., video: ...}`: of the encoder
            and of the head of each; what they have in common takes the mean.
        **settings: Other settings of the base class.

    Raises:
        ValueError: If `modality_dropout`, `unimodal_loss` or a share of the start is out of range;
            if `unimodal_loss` is 1 and the head has weights that would not be trained.
    """

    def __init__(
        self,
        image_encoder: nn.Module,
        video_encoder: nn.Module,
        head: Callable[[int, int], nn.Module],
        *,
        modality_dropout: float = 0.0,
        unimodal_loss: float = 0.0,
        start_share: float | dict[str, float] = 0.0,
        **settings: Any,
    ) -> None:
        shares = start_share if isinstance(start_share, dict) else dict.fromkeys(_BOTH, start_share)
        if set(shares) != set(_BOTH):
            raise ValueError(
                f"start_share must be a number or one of image and of video, got {start_share!r}. "
                "Set model.init_args.start_share."
            )
        for share in shares.values():
            require("start_share", share, is_share, "in [0, 1)")
        super().__init__(start_share=max(shares.values()), **settings)
        for name, value in (
            ("modality_dropout", modality_dropout),
            ("unimodal_loss", unimodal_loss),
        ):
            require(name, value, lambda share: 0 <= share <= 1, "in [0, 1]")
        self._start_shares = shares
        self.modality_dropout, self.unimodal_loss = modality_dropout, unimodal_loss
        self._sum_shift: float | None = None
        self.image_encoder = image_encoder
        self.video_encoder = video_encoder
        self.head = head(image_encoder.num_features, video_encoder.num_features)  # type: ignore[arg-type]
        if getattr(self.head, "untrained", False):
            self.requires_grad_(False)
        elif unimodal_loss == 1 and not self._adds():
            raise ValueError(
                f"unimodal_loss must be below 1 where {type(self.head).__name__} has to learn how "
                "modalities join, got 1. Set unimodal_loss=0, or "
                "head.class_path=backbones.SumLogitFusion."
            )

    def start_from(self, *, image: Mapping[str, Tensor], video: Mapping[str, Tensor]) -> None:
        """Take the weights of an image and of a video classifier of the same encoders.

        Their encoders are taken; their heads too where the fusion head has an `image_head` and a
        `video_head`, and the shift of their logits where it has an `image_shift`, `video_shift`.

        Args:
            image: `state_dict` of an `ImageClassifier`.
            video: `state_dict` of a `VideoClassifier`.

        Raises:
            RuntimeError: If names or shapes differ, naming them.
        """
        for name, state in zip(_BOTH, (image, video), strict=True):
            encoder: nn.Module = getattr(self, f"{name}_encoder")
            encoder.load_state_dict(_within(state, "encoder."))
            head: nn.Module | None = getattr(self.head, f"{name}_head", None)
            if head is not None:
                head.load_state_dict(_within(state, "head."))
            shift: Tensor | None = getattr(self.head, f"{name}_shift", None)
            if shift is not None:
                shift.copy_(state["logit_shift"])
        if isinstance(getattr(self.head, "bias", None), nn.Parameter):
            self._sum_shift = -float(image["logit_shift"] + video["logit_shift"])

    def setup(self, stage: str) -> None:
        """As of any classifier; a sum of two log-odds would hold the share of positives twice.

        Each modality of a sum is doubted by the share of one patient in all that are trained on.
        """
        from_rule = self._starts_unshifted
        super().setup(stage)
        if stage != "fit" or not self._adds():
            return
        negatives, positives = self.trainer.datamodule.train_label_counts()  # type: ignore[attr-defined]
        if isinstance(doubt := getattr(self.head, "doubt", None), Tensor):
            doubt.fill_(1 / (negatives + positives))
        if not (self.unimodal_loss and not from_rule) and self._sum_shift is None:
            return
        odds = math.log(positives / negatives)
        with torch.no_grad():
            if self._sum_shift is not None:
                self.shift_head(self._sum_shift - odds + self.logit_shift)
            else:
                self._sum_head().bias.fill_(odds + self.logit_shift)
        self._sum_shift = None

    def encoders(self) -> tuple[nn.Module, ...]:
        """Both encoders."""
        return (self.image_encoder, self.video_encoder)

    def encoder_of(self, modality: str) -> nn.Module:
        """One of the two."""
        return {"image": self.image_encoder, "video": self.video_encoder}[modality]

    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Features of the rows' images and windows."""
        return {
            name: self.features(
                self.encoder_of(name), _filled(batch[name], batch.get(f"present_{name}"))
            )
            for name in _BOTH
            if name in batch
        }

    def set_rule(self, rule: LinearRule) -> None:
        """Weights, offsets and bias of a `SumLogitFusion`."""
        head = self._sum_head()
        for name, linear in (("image", head.image_head[-1]), ("video", head.video_head[-1])):
            linear.weight.copy_(torch.as_tensor(rule.weights[name])[None])
            linear.bias.fill_(rule.offsets[name])
        head.bias.fill_(rule.bias)

    def shift_head(self, shift: Tensor) -> None:
        """Add to the head's bias."""
        self._sum_head().bias.add_(shift)

    def share_of_start(self, parameter: str) -> float:
        """That of the modality whose encoder or head it is in, else the mean."""
        for name, share in self._start_shares.items():
            if parameter.removeprefix("head.").startswith(f"{name}_"):
                return share
        return sum(self._start_shares.values()) / len(self._start_shares)

    def _adds(self) -> bool:
        return all(hasattr(self.head, name) for name in ("image_head", "video_head", "bias"))

    def _sum_head(self) -> Any:
        if not self._adds():
            raise ValueError(
                "head must be a backbones.SumLogitFusion where finetune is probe or lp-ft, got "
                f"{type(self.head).__name__}. Set head.class_path=backbones.SumLogitFusion, or "
                "finetune=full."
            )
        return self.head

    def head_logits(self, features: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:
        """Logits `(B,)` by the fusion head."""
        image, video = features["image"], features["video"]
        present_image, present_video = batch["present_image"], batch["present_video"]
        if self.training and self.modality_dropout:
            draw = torch.rand(len(image), device=image.device) / self.modality_dropout
            both = present_image & present_video
            present_image = present_image & ~(both & (draw < 0.5))
            present_video = present_video & ~(both & (draw >= 0.5) & (draw < 1))
        return self.score(self.head, image, video, present_image, present_video)

    def loss(self, features: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:
        """The cross-entropy of both together, and of each alone over the rows that have it."""
        share = self.unimodal_loss
        loss = (1 - share) * super().loss(features, batch) if share < 1 else torch.tensor(0.0)
        for name in _BOTH if share else ():
            shown = {f"present_{m}": batch[f"present_{m}"] & (m == name) for m in _BOTH}
            logits = self.score(self.head, *(features[m] for m in _BOTH), *shown.values())
            if self._adds():  # else what both share drifts, for each part makes up for it
                bias = self._sum_head().bias
                logits = logits - bias + bias.detach()
            present = shown[f"present_{name}"]
            losses = torch.where(present, self.cross_entropy(logits, batch), 0.0)
            loss = loss + share * losses.sum() / present.sum().clamp(min=1)
        return loss


def _within(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def _filled(rows: Tensor, present: Tensor | None) -> Tensor:
    """Rows `(B, ...)` with copies of present ones in the place of the absent; None: all are there.

    The head does not look at them, but batch statistics would be drawn from their zeros. Of fixed
    shape, so that the device need not wait for the host, nor one process for another.
    """
    if present is None:
        return rows
    first_present = torch.argsort(~present, stable=True)
    absent_before = torch.cumsum(~present, 0) - 1
    stand_in = first_present[absent_before % present.sum().clamp(min=1)]
    return rows[torch.where(present, torch.arange(len(rows), device=rows.device), stand_in)]

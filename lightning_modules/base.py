"""What every classifier shares: loss, optimiser, scoring by patient."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Self

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torchmetrics.functional.classification import binary_auroc

from lightning_modules.layers import blocks, channels_last_format, use_channels_last
from lightning_modules.probe import LinearRule
from lightning_modules.schedule import with_schedule
from lightning_modules.scores import Column, gather_rows, patient_scores, rows_of


class PatientClassifier(LightningModule):
    """A network that gives each row of a batch one logit, trained and scored the study's way.

    A subclass gives `encode`, `head_logits` and `encoders`; the rest is the same for every
    modality, so that modalities differ in nothing but what they see. Logged at each validation:
    `inner_bce`, the patient-level binary cross-entropy that early stopping and checkpoint choice
    watch, and `inner_auroc` (NaN where inner validation holds one class only).

    Args:
        pos_weight: Weight of a positive row in the loss, > 0. `balanced` takes negatives /
            positives among the training patients.
        encoder_lr: AdamW learning rate of the encoders, > 0.
        head_lr: AdamW learning rate of everything else, > 0.
        weight_decay: AdamW weight decay of weights (biases and norms have none), >= 0.
        warmup: Share of the training steps in which the rates rise linearly from 0, in [0, 1);
            after it they fall to 0 along half a cosine (Loshchilov & Hutter 2017, eq. 5).
        layer_decay: Rate of an encoder's first block over that of its last, `encoder_lr`, in
            (0, 1]; between them it rises geometrically, so that networks of 6 and of 67 blocks are
            treated alike (discriminative fine-tuning, Howard & Ruder 2018, section 3.1).
        label_smoothing: Share of a label that goes to the other class in the loss, in [0, 1).
            `platt` sets it by the number of training patients of either class, N+ and N-: labels
            are (N+ + 1) / (N+ + 2) and 1 / (N- + 2), since nobody can learn from a few patients
            that something never occurs (Platt 1999, section 2.2).
        freeze_batch_norm: Whether batch norm in the encoders keeps the statistics it came with: on
            few patients those of each batch are mostly noise. Its scale and shift are trained.
        start_share: Share of the weights that training started from in the final ones, in [0, 1);
            only where it started from a rule (`start_from_rule`), so that the start is a model of
            its own (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903).
        unit_features: Whether an encoder's features are scaled to a root mean square of 1 each row.
        mirror_views: Whether features outside of training are the mean of those of a row and of its
            mirror image, left for right. For who mirrors in training, too.
        channels_last: Whether convolutions keep channels innermost in memory, for tensor cores.
        fused_optimizer: Whether AdamW updates all parameters in one kernel.
        compile_backend: Backend of `torch.compile` for the encoders, as `inductor`; None for none.

    Raises:
        ValueError: If an argument is outside its range; when training begins, if the loss is
            weighted though the datamodule repeats rows to the same end.
    """

    def __init__(
        self,
        *,
        pos_weight: float | Literal["balanced"] = "balanced",
        encoder_lr: float = 1e-4,
        head_lr: float = 1e-3,
        weight_decay: float = 0.05,
        warmup: float = 0.1,
        layer_decay: float = 1.0,
        label_smoothing: float | Literal["platt"] = 0.0,
        freeze_batch_norm: bool = False,
        start_share: float = 0.0,
        unit_features: bool = False,
        mirror_views: bool = False,
        channels_last: bool = False,
        fused_optimizer: bool = False,
        compile_backend: str | None = None,
    ) -> None:
        super().__init__()
        smoothing = 0.0 if label_smoothing == "platt" else label_smoothing
        for name, value, fits, rule in (
            ("pos_weight", 1 if pos_weight == "balanced" else pos_weight, _is_above_0, "> 0"),
            ("encoder_lr", encoder_lr, _is_above_0, "> 0"),
            ("head_lr", head_lr, _is_above_0, "> 0"),
            ("weight_decay", weight_decay, lambda decay: decay >= 0, ">= 0"),
            ("warmup", warmup, is_share, "in [0, 1)"),
            ("layer_decay", layer_decay, lambda decay: 0 < decay <= 1, "in (0, 1]"),
            ("start_share", start_share, is_share, "in [0, 1)"),
            ("label_smoothing", smoothing, is_share, "in [0, 1), or platt"),
        ):
            require(name, value, fits, rule)
        self.encoder_lr, self.head_lr = encoder_lr, head_lr
        self.weight_decay, self.warmup = weight_decay, warmup
        self.layer_decay, self.channels_last = layer_decay, channels_last
        self.fused_optimizer, self.compile_backend = fused_optimizer, compile_backend
        self._smooths_by_counts = label_smoothing == "platt"
        self.smoothed_labels = (smoothing / 2, 1 - smoothing / 2)
        """What the loss takes for 0 and for 1."""
        self.unit_features, self.mirror_views = unit_features, mirror_views
        self.freeze_batch_norm = freeze_batch_norm
        self._starts_unshifted = False
        self._start_share = start_share
        self._start: dict[str, Tensor] = {}
        self._balance = pos_weight == "balanced"
        # Buffers, because predictions made from a checkpoint must undo what it trained with.
        weight = 1.0 if pos_weight == "balanced" else float(pos_weight)
        self.pos_weight: Tensor
        self.register_buffer("pos_weight", torch.tensor(weight))
        self.logit_shift: Tensor
        """By how much training favours positives on the logit scale; probabilities undo it."""
        self.register_buffer("logit_shift", torch.tensor(math.log(weight)))
        self._validation_rows: list[dict[str, Column]] = []
        self._epoch_loss, self._epoch_rows = torch.zeros(()), 0

    @abstractmethod
    def encode(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Features `(B, F)` of each row by modality in the batch; anything where a row lacks it."""

    @abstractmethod
    def head_logits(self, features: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:
        """Score rows by their features, as `encode` gives them: logits `(B,)`, any real number.

        Of the batch no more is needed than `present_image` and `present_video`, where it has them.
        """

    def logits(self, batch: Mapping[str, Any]) -> Tensor:
        """Score each row of a batch: logits `(B,)`, any real number."""
        return self.head_logits(self.encode(batch), batch)

    @abstractmethod
    def set_rule(self, rule: LinearRule) -> None:
        """Make the head score by a linear rule in the features of `encode`."""

    @abstractmethod
    def shift_head(self, shift: Tensor) -> None:
        """Add to every logit, in the head."""

    def start_from_rule(self, rule: LinearRule) -> None:
        """Begin training at a rule that was fitted without weighting the classes.

        Raises:
            ValueError: If the head is not linear in the features.
        """
        with torch.no_grad():
            self.set_rule(rule)
        self._starts_unshifted = True

    def train(self, mode: bool = True) -> Self:
        """As of any module; frozen batch norm stays in evaluation mode."""
        super().train(mode)
        if self.freeze_batch_norm:
            for encoder in self.encoders():
                for module in encoder.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.eval()
        return self

    def mix_with_start(self) -> bool:
        """Move the trained weights back by `start_share` of the way; whether there was a way."""
        with torch.no_grad():
            for name, parameter in self.named_parameters() if self._start else ():
                start = self._start[name].to(parameter.device)
                parameter.lerp_(start, self.share_of_start(name))
        return bool(self._start)

    def share_of_start(self, parameter: str) -> float:  # noqa: ARG002
        """`start_share` of the parameter of this name."""
        return self._start_share

    @abstractmethod
    def encoder_of(self, modality: str) -> nn.Module:
        """The encoder of `image` or `video`."""

    @abstractmethod
    def encoders(self) -> tuple[nn.Module, ...]:
        """The modules trained at `encoder_lr`; all others are trained at `head_lr`."""

    def setup(self, stage: str) -> None:
        """Take the balance of the training patients where it is asked for; lay out the memory.

        Raises:
            ValueError: If the loss is weighted though the datamodule repeats positives.
        """
        if self.channels_last:
            use_channels_last(self)
        if stage != "fit":
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        oversampling = getattr(data, "positive_oversampling", 1.0)
        if oversampling != 1 and (self._balance or self.pos_weight != 1):
            raise ValueError(
                "pos_weight must be 1 where class_sampling is balanced, got "
                f"{'balanced' if self._balance else self.pos_weight.item()!r}: both at once would "
                "favour positives twice. Set pos_weight=1, or class_sampling=stratified."
            )
        if self._balance or self._smooths_by_counts:
            negatives, positives = data.train_label_counts()
        if self._balance:
            self.pos_weight.fill_(negatives / positives)
        if self._smooths_by_counts:
            self.smoothed_labels = (1 / (negatives + 2), (positives + 1) / (positives + 2))
        self.logit_shift.fill_(math.log(self.pos_weight.item() * oversampling))
        if self._starts_unshifted:
            with torch.no_grad():
                self.shift_head(self.logit_shift)
            self._starts_unshifted = False
            if self._start_share:
                self._start = {
                    name: p.detach().cpu().clone() for name, p in self.named_parameters()
                }
        if self.compile_backend:
            for encoder in self.encoders():
                encoder.compile(backend=self.compile_backend)

    def on_train_start(self) -> None:
        """Freeze batch norm: Lightning leaves modules in the modes that it finds them in."""
        if self.freeze_batch_norm:
            self.train()

    def features(self, encoder: nn.Module, pixels: Tensor) -> Tensor:
        """An encoder's `(B, F)` of its input, in the precision and memory order set."""
        features = self._features_once(encoder, pixels)
        if self.mirror_views and not self.training:
            features = features.lerp(self._features_once(encoder, pixels.flip(-1)), 0.5)
        return features

    @contextmanager
    def without_mirror(self) -> Iterator[None]:
        """Meanwhile features are those of rows as they are."""
        own, self.mirror_views = self.mirror_views, False
        try:
            yield
        finally:
            self.mirror_views = own

    def _features_once(self, encoder: nn.Module, pixels: Tensor) -> Tensor:
        if self.channels_last:
            pixels = pixels.contiguous(memory_format=channels_last_format(pixels.ndim))
        features: Tensor = encoder(pixels)
        if self.unit_features:
            # By the largest first: deep networks without norms give 1e-20, whose square is 0.
            largest = features.detach().abs().amax(1, keepdim=True)
            features = features / largest.clamp(min=torch.finfo(features.dtype).tiny)
            features = features / features.square().mean(1, keepdim=True).add(1e-8).sqrt()
        return features

    def score(self, head: nn.Module, *inputs: Tensor) -> Tensor:
        """A head's output in the precision of the weights, also inside a mixed one.

        A logit of bfloat16 has three digits: patients would tie.
        """
        dtype = self.pos_weight.dtype
        with torch.autocast(inputs[0].device.type, enabled=False):
            logits: Tensor = head(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
        return logits

    def forward(self, batch: Mapping[str, Any]) -> Tensor:
        """Probability of each row, `(B,)` in [0, 1].

        The weighting of the loss is undone (docs/design.md, Protocol).
        """
        return torch.sigmoid(self.logits(batch) - self.logit_shift)

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """The loss of the batch, added to the epoch's."""
        loss = self.loss(self.encode(batch), batch)
        rows = len(batch["label"])
        self._epoch_loss = self._epoch_loss + loss.detach() * rows
        self._epoch_rows += rows
        return loss

    def loss(self, features: Mapping[str, Tensor], batch: Mapping[str, Any]) -> Tensor:
        """What training lowers, `()`: here the cross-entropy of `head_logits`."""
        return self.cross_entropy(self.head_logits(features, batch), batch).mean()

    def cross_entropy(self, logits: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """Weighted binary cross-entropy of each row, `(B,)`."""
        low, high = self.smoothed_labels
        return binary_cross_entropy_with_logits(
            logits.float(),
            low + batch["label"] * (high - low),
            weight=batch.get("loss_weight"),
            pos_weight=self.pos_weight.float(),
            reduction="none",
        )

    def on_train_epoch_start(self) -> None:
        """Begin the sum of the losses."""
        self._epoch_loss, self._epoch_rows = torch.zeros((), device=self.device), 0

    def on_train_epoch_end(self) -> None:
        """Log the mean loss over the rows of all processes (Lightning's own costs more a step)."""
        if self._epoch_rows:  # a training step of a subclass may log its own
            sums = torch.stack((self._epoch_loss, self._epoch_loss.new_tensor(self._epoch_rows)))
            total, rows = self.trainer.strategy.reduce(sums, reduce_op="sum")
            self.log("train_loss", total / rows)

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:  # noqa: ARG002
        """Score the rows; patients are formed when all are there."""
        self._validation_rows.append(rows_of(batch, self.logits(batch)))

    def on_validation_epoch_end(self) -> None:
        """Log the patient-level figures of inner validation, the same on every process.

        Raises:
            ValueError: If the patients scored are not those of the split.
        """
        patients = patient_scores(gather_rows(self._validation_rows))
        self._validation_rows.clear()
        self._check_patients(set(patients["patient_id"]))
        label = torch.tensor(patients["label"].to_numpy())
        logit = torch.tensor(patients["logit"].to_numpy())
        bce = binary_cross_entropy_with_logits(logit - self.logit_shift.cpu(), label)
        one_class = label.min() == label.max()
        # torchmetrics gives 0 with a warning for one class; undefined is NaN here.
        auroc = torch.tensor(math.nan) if one_class else binary_auroc(logit.sigmoid(), label.long())
        self.log_dict(
            {"inner_bce": bce.float(), "inner_auroc": auroc.float()}, rank_zero_only=False
        )

    def _check_patients(self, scored: set[str]) -> None:
        trainer = self.trainer
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        in_part = (
            trainer.sanity_checking or repr(trainer.limit_val_batches) != "1.0"
        )  # 1 is a batch
        if in_part or not hasattr(data, "patients"):
            return
        expected = set(data.patients("inner_val"))
        if scored != expected:
            raise ValueError(
                f"patients of inner validation must be the {len(expected)} of the split, got "
                f"{len(scored)}, {len(expected - scored)} of them missing. Check the datamodule "
                f"{type(data).__name__}."
            )

    def predict_step(
        self,
        batch: Mapping[str, Any],
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> dict[str, Column]:
        """Score the rows of one batch, as `lightning_modules.scores.rows_of` describes."""
        return rows_of(batch, self.logits(batch))

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW over encoders and head, with and without decay; warm-up, then a cosine, by step."""
        rates = {
            id(parameter): self.encoder_lr * self.layer_decay ** (above / max(1, len(stack) - 1))
            for stack in map(blocks, self.encoders())
            for above, block in enumerate(reversed(stack))
            for parameter in block
        }
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in self.parameters():
            if parameter.requires_grad:
                rate = rates.get(id(parameter), self.head_lr)
                decay = self.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((rate, decay), []).append(parameter)
        optimizer = torch.optim.AdamW(
            [
                {"params": p, "lr": rate, "weight_decay": decay}
                for (rate, decay), p in groups.items()
            ],
            fused=self.fused_optimizer or None,
        )
        # A fused AdamW can also undo the scaling of float16 gradients; Lightning then refuses to
        # clip them, in bfloat16 too, which has no scaling. Left to the scaler, as elsewhere.
        optimizer._step_supports_amp_scaling = False
        return with_schedule(optimizer, self.trainer, warmup=self.warmup)


def _is_above_0(value: float) -> bool:
    return value > 0


def is_share(value: float) -> bool:
    """Whether it is in [0, 1)."""
    return 0 <= value < 1


def require(name: str, value: object, fits: Callable[[Any], bool], rule: str) -> None:
    """Refuse a setting of a classifier that is no number or does not fit.

    Raises:
        ValueError: Naming the setting and the rule.
    """
    if not (isinstance(value, int | float) and fits(value)):  # YAML's null comes through
        raise ValueError(f"{name} must be {rule}, got {value!r}. Set model.init_args.{name}.")

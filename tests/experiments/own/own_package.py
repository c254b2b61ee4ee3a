"""What a user of the framework might bring: encoders and a LightningModule of their own."""

import logging
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_info
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


class Kill(Callback):
    """Ends its own process as a power cut would, once at each of these places.

    Args:
        at: As `train 2` for the second step since the start, `validate 1` and `between 1` for
            those epochs, `predict 0`.
        marks: A folder that remembers which were done.
    """

    def __init__(self, at: list[str], marks: Path) -> None:
        self._at, self._marks = at, marks

    def _pass(self, place: str, number: int) -> None:
        name = f"{place} {number}"
        mark = self._marks / name
        if name in self._at and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self._pass("train", trainer.global_step)

    def on_validation_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        self._pass("validate", trainer.current_epoch)

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        self._pass("between", trainer.current_epoch)

    def on_predict_start(self, *_: Any) -> None:
        self._pass("predict", 0)


class Greedy(TinyEncoder):
    """Wants more memory than there is for more than so many rows.

    Args:
        most: Rows that fit.
        norm: Whether it computes with the statistics of the batch.
    """

    def __init__(self, most: int, norm: bool = False) -> None:
        super().__init__()
        self.most = most
        self.norm = nn.BatchNorm1d(self.num_features) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            raise torch.OutOfMemoryError(f"tried to allocate memory for {len(x)} rows")
        return self.norm(super().forward(x))


class Sleeper(TinyEncoder):
    """Falls asleep for ever in one rank, at a training step."""

    def __init__(self, rank: int = 1, step: int = 3) -> None:
        super().__init__()
        self.rank, self.step, self.steps = rank, step, 0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        while self.steps == self.step and int(os.environ.get("LOCAL_RANK", "0")) == self.rank:
            time.sleep(0.1)
        return super().forward(x)


class Deserter(Sleeper):
    """Is killed in its rank, while the first one sleeps and cannot notice."""

    def forward(self, x: Tensor) -> Tensor:
        if self.steps + self.training == self.step:
            if int(os.environ["LOCAL_RANK"]) == self.rank:
                os.kill(os.getpid(), signal.SIGKILL)
            self.rank = 0
        return super().forward(x)


class Plateau(ImageClassifier):
    """An image classifier whose rate falls when inner validation gets no better."""

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "inner_bce", "interval": "epoch"},
        }


class Talker(ImageClassifier):
    """Says whom it scores in every way that Python has, and then fails on the first of them."""

    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        patient = batch["patient_id"][0]
        print(f"printed {patient.lower()}_a.avi", end="")
        print(f" and {patient}", file=sys.stderr)
        sys.stdout.buffer.write(f"bytes of {patient}\n".encode())
        warnings.warn(f"warned of {patient}", stacklevel=1)
        logging.getLogger("own").warning("logged %s ü\ud800", patient)
        rank_zero_info(f"rank zero {patient}")
        print("the last line has no end", patient, end="")
        raise ValueError(f"cannot score {patient.lower()}_clip")

"""One row of a patient, explained: maps, importance in time, and what of it random weights give."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from datamodules.batches.rows import Row
from datamodules.batches.sampling import ClipTimes
from experiments.training.trained import Trained
from lightning_modules.attribution import Method, attribute, importance_in_time, randomised

METHODS: tuple[Method, ...] = get_args(Method)
Maps = dict[Method, NDArray[np.float32]]

LEARNED = 0.5
"""Rank correlation with the map of random weights from which on a map is not to be relied on."""


@dataclass(frozen=True)
class Look:
    """What was looked at in one input.

    Attributes:
        pixels: What the encoder saw, `(T, H, W, 3)`, 0 to 1.
        maps: By method, signed `(T, H, W)`: where positive, it speaks for the positive class.
        random: The same of the same network with its weights in random order.
        sanity: By method, Spearman's correlation of the two; NaN where one is constant.
    """

    pixels: NDArray[np.float32]
    maps: Maps
    random: Maps
    sanity: dict[Method, float]


@dataclass(frozen=True)
class Explained:
    """A row, explained.

    Attributes:
        row: Which.
        logit: Of the row, the weighting of the loss undone: above 0 the model leans to positive.
        alone: Of a row with both modalities, the logit of each alone.
        looks: By input.
        times: Of the clip; None without one.
        in_time: `(T,)`, what the logit loses without each frame of the window; empty without one.
    """

    row: Row
    logit: float
    alone: dict[str, float]
    looks: dict[str, Look]
    times: ClipTimes | None
    in_time: NDArray[np.float32]

    @property
    def lean(self) -> int:
        """1 where the model leans to the positive class, else -1."""
        return 1 if self.logit > 0 else -1

    @property
    def leaning(self) -> str:
        """The class that the model leans to."""
        return "positive" if self.lean > 0 else "negative"

    def evidence(self, key: str, method: Method, *, random: bool = False) -> NDArray[np.float32]:
        """What speaks for the class that the model leans to, `(T, H, W)`, 0 or more."""
        look = self.looks[key]
        return np.maximum(self.lean * (look.random if random else look.maps)[method], 0)

    @property
    def seconds(self) -> NDArray[np.float64]:
        """Times of the window's frames in the clip."""
        if self.times is None or self.row.window is None:
            return np.empty(0)
        return np.asarray(self.row.window / self.times.fps, np.float64)

    @property
    def phase(self) -> str:
        """In which part of the clip the most important frame lies."""
        if self.times is None or not len(self.in_time):
            return ""
        at = float(self.seconds[int(np.argmax(self.lean * self.in_time))])
        arrival, peak = self.times.arrival_s, self.times.peak_s
        if arrival is None:
            return "arrival not known"
        if at < arrival:
            return "before arrival"
        return "wash-out" if peak is not None and at > peak else "wash-in"


def explain_row(trained: Trained, row: Row, device: torch.device) -> Explained:
    """Explain one row as it is scored at evaluation.

    Args:
        trained: Its datamodule has opened the store.
        row: Of `evaluation_rows`.
        device: Where to compute; the model is there.
    """
    model, data = trained.model, trained.data
    batch = data.read_finished([row])
    batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    keys = [key for key in data.inputs if row.items[key] is not None]
    with torch.no_grad():
        logit = float(model.logits(batch)) - float(model.logit_shift)
        alone = _alone(trained, batch) if len(keys) > 1 else {}
    maps = {key: _maps(trained, batch, key) for key in keys}
    in_time = (
        importance_in_time(model, batch, rows=trained.batch_size).numpy()
        if "video" in keys
        else np.empty(0, np.float32)
    )
    with randomised(model):
        random = {key: _maps(trained, batch, key) for key in keys}
    looks = {}
    for key in keys:
        settings = data.inputs[key]
        pixels = batch[key][0].cpu().numpy()
        pixels = pixels[:, None] if pixels.ndim == 3 else pixels
        mean, std = np.asarray(settings.mean, np.float32), np.asarray(settings.std, np.float32)
        looks[key] = Look(
            pixels=np.clip(pixels.transpose(1, 2, 3, 0) * std + mean, 0, 1),
            maps=maps[key],
            random=random[key],
            sanity={
                method: _correlation(maps[key][method], random[key][method])
                for method in maps[key]
                if method in random[key]
            },
        )
    clip = row.items.get("video")
    times = data.times[clip] if clip is not None else None
    return Explained(row, logit, alone, looks, times, in_time)


def _maps(trained: Trained, batch: Mapping[str, Any], key: str) -> Maps:
    found = {}
    for method in METHODS:
        shown = attribute(method, trained.model, batch, key, rows=trained.batch_size)
        if shown is not None:
            found[method] = shown.numpy()
    return found


def _alone(trained: Trained, batch: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for key in ("image", "video"):
        other = "video" if key == "image" else "image"
        only = {**batch, f"present_{other}": torch.zeros_like(batch[f"present_{other}"])}
        found[key] = float(trained.model.logits(only)) - float(trained.model.logit_shift)
    return found


def _correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(spearmanr(a.ravel(), b.ravel()).statistic)

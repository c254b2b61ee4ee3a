"""Numbers, intervals and settings as text."""

from collections.abc import Mapping
from math import isnan
from typing import Any

import pandas as pd

from evaluation.records.analysis import MEAN

PARTS = {"oof": "out-of-fold", "test": "test"}
"""Parts with labels, and what they are called."""


def in_use(name: str, modality: str) -> bool:
    """Whether a setting has a say in models of a modality."""
    if name.startswith("image"):
        return modality != "video"
    if name.startswith(("video", "num_frames")) or name.endswith("_sampling"):
        return modality != "image"
    return name != "head" or modality == "combined"


def brief(value: object) -> str:
    """A value of a configuration in a few words; a constructor as `Name(argument=value)`."""
    if value is None:
        return ""
    if not isinstance(value, Mapping):
        return str(value)
    if "class_path" in value:
        arguments = value.get("init_args") or {}
        inner = ", ".join(f"{k}={v}" for k, v in arguments.items() if not isinstance(v, Mapping))
        return f"{str(value['class_path']).split('.')[-1]}({inner})"
    return ", ".join(f"{k}={v}" for k, v in value.items())


def pair(row: Mapping[Any, Any]) -> str:
    """`resnet: video − image` within an architecture, else `video: swin − resnet`."""
    if row["architecture_a"] == row["architecture_b"]:
        return f"{_architecture(row, 'a')}: {row['modality_a']} − {row['modality_b']}"
    if row["modality_a"] == row["modality_b"]:
        return f"{row['modality_a']}: {row['architecture_a']} − {row['architecture_b']}"
    return " − ".join(f"{row[f'architecture_{s}']} {row[f'modality_{s}']}" for s in "ab")


def model(row: Mapping[Any, Any], side: str) -> str:
    """`the video model (resnet)`, or `the video models (mean over architectures)`; a or b."""
    many = "s" if row[f"architecture_{side}"] == MEAN else ""
    return f"the {row[f'modality_{side}']} model{many} ({_architecture(row, side)})"


def _architecture(row: Mapping[Any, Any], side: str) -> str:
    name = str(row[f"architecture_{side}"])
    return "mean over architectures" if name == MEAN else name


def number(value: float, digits: int = 3) -> str:
    """A figure with its digits; a dash where it is undefined, a true minus, an infinity sign."""
    if isnan(value):
        return "–"
    return f"{value:.{digits}f}".replace("inf", "∞").replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """`value (low–high)`, without the interval where it is undefined."""
    return number(value) + ("" if isnan(low) else f" ({number(low)}–{number(high)})")


def estimate(row: Mapping[Any, Any], prefix: str = "") -> str:
    """The `auc`, `low` and `high` of a row as `interval`; of `fold_mean_auc` with that prefix."""
    return interval(*(row[f"{prefix}{name}"] for name in ("auc", "low", "high")))


def difference(row: Mapping[Any, Any]) -> str:
    """`0.134 (0.085 to 0.182)` of a row of the comparisons; signs make a dash hard to read."""
    return f"{number(row['difference'])} ({number(row['low'])} to {number(row['high'])})"


def ends(values: pd.Series, digits: int = 3) -> str:
    """`0.701 and 0.912`: the lowest and the highest of several figures.

    Where some are undefined, how many of all: `0.701 and 0.912 (undefined for 2 of 15)`.
    """
    lacking = int(values.isna().sum())
    known = f"{number(values.min(), digits)} and {number(values.max(), digits)}"
    return known + (f" (undefined for {lacking} of {len(values)})" if lacking else "")


def counted(count: int, noun: str) -> str:
    """`1 run` or `2 runs`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def p_value(p: float) -> str:
    """`p = 0.012`, `p < 0.001`, or `p undefined`."""
    if isnan(p):
        return "p undefined"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def bare_p(p: float) -> str:
    """The same below a heading that says p: `0.012`, `< 0.001`, `undefined`."""
    return p_value(p).removeprefix("p = ").removeprefix("p ")

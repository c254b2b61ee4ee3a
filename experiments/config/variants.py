"""Further axes of a sweep: any dotted key, and the name that a cell gets from it.

A run that differs from another in such a key is another model. The difference becomes part of the
cell's architecture, `resnet+pos_weight=1`: run ids, `sweep.json`, predictions, W&B and evaluation
name cells by architecture and modality, so that none of them can mix two models up, or has to know
of further axes. Where a key changes nothing, as the fusion head of an image model, there is one
run, and it has no such name.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import yaml

from evaluation.records.schema import CELL, REPEAT
from experiments.config.compose import compose, merge
from experiments.config.identity import matters
from experiments.config.study import full_key
from experiments.errors import ConfigError

_STAND_INS = {"fold": "\u2063fold\u2063", "seed": "\u2063seed\u2063"}
"""Of what every run has and no cell is named for; invisible separators, which no file uses."""


def compose_cells(
    common: Sequence[str], cells: Iterable[Mapping[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Configurations of combinations of axis values, each architecture named for further axes.

    What fold and seed are is known to reach a configuration as they stand, so combinations that
    differ in nothing else are composed once, with stand-ins, and filled in: a hundred seeds cost
    little more than one.

    Args:
        common: Overrides of every run.
        cells: A value for each axis.

    Raises:
        ConfigError: As `compose`.
    """
    templates: dict[str, dict[str, Any] | None] = {}
    for cell in map(_in_one_partition, cells):
        varied = {
            k: cell[k] for k in _STAND_INS if type(cell.get(k)) is int or cell.get(k) == "all"
        }
        stand_ins = {key: _STAND_INS[key] for key in varied}
        name = json.dumps({**cell, **stand_ins})
        if name not in templates:
            try:
                templates[name] = _compose_cell(common, {**cell, **stand_ins})
            except ConfigError:  # one that chooses by fold or seed, or a mistake, which is told
                templates[name] = None
        template = templates[name]
        if template is None:
            yield _compose_cell(common, cell)
        else:
            yield _filled(template, {_STAND_INS[key]: value for key, value in varied.items()})


def _in_one_partition(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """The cell; of a fold of all patients there is one partition only."""
    is_everyone = cell.get("fold") in ("all", "none") and REPEAT in cell
    return {**cell, REPEAT: 0} if is_everyone else cell


def _compose_cell(common: Sequence[str], cell: Mapping[str, Any]) -> dict[str, Any]:
    axes = (*CELL, REPEAT)
    named = [f"{key}={as_text(value)}" for key, value in cell.items() if key in axes]
    # These reach every run: without them the question is the same, and asked once.
    everywhere = ("fold=", "seed=", f"{REPEAT}=")
    start = (*common, *(text for text in named if not text.startswith(everywhere)))
    further = {k: v for k, v in cell.items() if k not in axes and _matters(k, start)}
    config = compose([*common, *named, *(f"{k}={as_text(v)}" for k, v in further.items())])
    labels = [f"+{key.rpartition('.')[2]}={_label(value)}" for key, value in further.items()]
    config["study"]["architecture"] += "".join(labels)
    return config


def _filled(node: Any, values: Mapping[str, int | str]) -> Any:
    """A copy with values for their stand-ins, as they are or within a text."""
    if isinstance(node, dict):
        return {key: _filled(value, values) for key, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, values) for value in node]
    if isinstance(node, str) and "\u2063" in node:
        if node in values:
            return values[node]
        for stand_in, value in values.items():
            node = node.replace(stand_in, str(value))
    return node


def axes_of(architecture: str) -> list[str]:
    """The further axes that a cell is named for: `["pos_weight"]` of `resnet+pos_weight=1`."""
    return [part.partition("=")[0] for part in architecture.split("+")[1:]]


def as_text(value: Any) -> str:
    """A value as an override's right-hand side: strings as the user wrote them."""
    return value if isinstance(value, str) else json.dumps(value)


@lru_cache(maxsize=256)
def _matters(key: str, overrides: tuple[str, ...]) -> bool:
    return matters(full_key(key), merge(overrides))


def _label(value: Any) -> str:
    """A value as a part of a file's name, distinct and, where it can be, readable."""
    if isinstance(value, str):
        value = yaml.safe_load(value)
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    shown = text
    if isinstance(value, Mapping) and isinstance(value.get("class_path"), str):
        shown = value["class_path"].rpartition(".")[2]
        text = shown if set(value) == {"class_path"} else text
    if re.search(r"[/\\]", shown):
        shown = "path"  # ids go to W&B, places do not
    shown = re.sub(r"[^\w.-]+", "_", shown, flags=re.ASCII).strip("_")[:24]
    digest = hashlib.sha256(text.encode()).hexdigest()[:4]
    return shown if shown == text else f"{shown}~{digest}"

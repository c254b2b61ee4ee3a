"""Many cells composed at once are what each is composed alone, and written as it is read."""

from pathlib import Path
from typing import Any

import pytest

from experiments.config.compose import compose
from experiments.config.files import dump_yaml, load_yaml
from experiments.config.study import study_of
from experiments.config.variants import compose_cells

CELLS = [
    {"architecture": a, "modality": "combined", "fold": fold, "seed": seed}
    for a in ("resnet", "mvit")
    for fold in (0, 2, "all")
    for seed in (0, 11)
]


def _overrides(cell: dict[str, Any]) -> list[str]:
    return ["profile=demo", *(f"{key}={value}" for key, value in cell.items())]


@pytest.mark.parametrize(
    "further",
    [
        [],
        ["model.init_args.image_encoder.init_args.pretrained='w/${study.fold}-${study.seed}.pt'"],
        # Chosen by the fold: no stand-in can tell.
        ["+x", "data.init_args.cache_gb=${study.sizes.${study.fold}}", "study.sizes.0=10"],
    ],
    ids=["plain", "within a text", "choosing"],
)
def test_cells_composed_together_are_those_composed_alone(further: list[str]) -> None:
    chosen = "+x" in further
    further = [text for text in further if text != "+x"]
    cells = [cell for cell in CELLS if not chosen or cell["fold"] == 0]
    together = list(compose_cells(["profile=demo", *further], cells))
    alone = [compose([*_overrides(cell), *further]) for cell in cells]
    assert together == alone
    assert together[0] is not together[1]
    assert together[0]["data"] is not together[1]["data"]
    assert [study_of(c["study"]).seed for c in together] == [cell["seed"] for cell in cells]


def test_configurations_are_read_as_they_were_written(tmp_path: Path) -> None:
    config = {"study": {"name": "1e-4", "other": "2024", "lr": 1e-4, "on": "yes", "off": None}}
    file = tmp_path / "config.yaml"
    file.write_text(dump_yaml(config))
    assert load_yaml(file) == config

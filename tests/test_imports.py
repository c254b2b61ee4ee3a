"""The rooms of the house: who may import whom."""

import ast
import re
import shutil
import tomllib
from pathlib import Path

import pytest

from tools import house

ROOT = house.ROOT


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


def test_no_import_runs_upward_or_across() -> None:
    assert house.forbidden(house.arrows()) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert house.circles(house.arrows()) == []


@pytest.mark.parametrize(
    ("path", "line", "told"),
    [
        ("backbones/errors.py", "import lightning_modules", "imports lightning_modules"),
        ("datamodules/store/folder.py", "from datamodules.batches import plan", "batches.plan"),
        ("evaluation/errors.py", "from datamodules import Store", "imports datamodules"),
        ("experiments/tracking/charts.py", "from experiments.sweeps.file import x", "sweeps.file"),
        ("experiments/training/pace.py", "from experiments.sweeps.file import x", "sweeps.file"),
    ],
)
def test_a_forbidden_import_is_found(tmp_path: Path, path: str, line: str, told: str) -> None:
    for room in house.ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.pyc"))
    spoilt = tmp_path / path
    spoilt.write_text(f"{spoilt.read_text()}\n\ndef late() -> None:\n    {line}\n")
    (found,) = house.forbidden(house.arrows(tmp_path))
    assert found.startswith(path.removesuffix(".py").replace("/", "."))
    assert told in found


def test_a_circle_within_a_wing_is_found(tmp_path: Path) -> None:
    for room in house.ROOMS:
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("*.pyc"))
    below = tmp_path / "datamodules" / "store" / "clip_file.py"
    below.write_text(f"{below.read_text()}\n\nfrom datamodules.store.clips import ClipReader\n")
    (circle,) = house.circles(house.arrows(tmp_path))
    assert {"datamodules.store.clip_file", "datamodules.store.clips"} <= set(circle)


def test_the_drawing_names_every_wing() -> None:
    drawn = "\n".join(house.draw())
    assert "circles: 0; arrows upward or across: 0" in drawn
    for floors in house.FLOORS.values():
        for name in (name for floor in floors for name in floor):
            assert f"  {name} " in drawn


def test_evaluation_needs_no_torch() -> None:
    for path in (ROOT / "evaluation").rglob("*.py"):
        assert not imports(path) & {"torch", "lightning", "torchvision", "timm", "torchmetrics"}


@pytest.mark.parametrize("room", ["backbones", "evaluation"])
def test_networks_and_statistics_know_no_lightning(room: str) -> None:
    for path in (ROOT / room).rglob("*.py"):
        assert "lightning" not in imports(path)


def test_constraints_pin_every_direct_dependency_once():
    def names(lines: list[str]) -> list[str]:
        found = [re.match(r"[A-Za-z0-9._-]+", line.strip()) for line in lines]
        return [re.sub(r"[-_.]+", "-", name[0]).lower() for name in found if name]

    pinned = names((ROOT / "constraints.txt").read_text().splitlines())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = names(project["dependencies"] + project["optional-dependencies"]["dev"])
    assert len(pinned) == len(set(pinned)), "pip refuses a name pinned twice"
    assert set(wanted) - {"decord2"} <= set(pinned)

"""The rooms of the house: who may import whom."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = {
    "backbones": set(),
    "datamodules": set(),
    "evaluation": set(),
    "lightning_modules": {"backbones"},
    "experiments": {"lightning_modules", "backbones", "datamodules", "evaluation"},
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(str(node.module).split(".")[0])
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_it_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        foreign = (imports(path) & set(ROOMS)) - ROOMS[room] - {room}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


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

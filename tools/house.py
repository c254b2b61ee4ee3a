"""The rooms and wings of the house, and who imports whom: `python tools/house.py` draws it.

A wing is a folder or a file of a room. Each room lists its wings in floors from the ground up: an
import goes to a lower floor or stays within its wing, so wings of one floor know nothing of each
other. `tests/test_imports.py` holds the code against this list.
"""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]

ROOMS: dict[str, set[str]] = {
    "backbones": set(),
    "datamodules": set(),
    "evaluation": set(),
    "lightning_modules": {"backbones"},
    "experiments": {"lightning_modules", "backbones", "datamodules", "evaluation"},
}
"""For each room the rooms that it may import."""

SHARED = {"datamodules.ledger"}
"""Files that every room may import: a format that two rooms write, in the standard library."""

FLOORS: dict[str, list[set[str]]] = {
    "backbones": [
        {"errors"},
        {"weights", "fusion", "_mvit", "_swin3d"},
        {"_probe"},
        {"image"},
        {"inflate", "frames"},
        {"video"},
    ],
    "datamodules": [
        {"errors", "names", "ledger", "cores", "processes"},
        {"files"},
        {"store", "phantom"},
        {"ingest.readers", "batches", "perfusion"},
        {"ingest.crop"},
        {"ingest"},
    ],
    "evaluation": [
        {"errors", "files"},
        {"statistics", "records"},
        {"tables"},
        {"result"},
        {"text"},
        {"figures", "checklists"},
        {"report"},
        {"evaluate", "remembered"},
    ],
    "lightning_modules": [
        {"layers", "scores", "freeze", "average", "sync_norm", "probe", "schedule", "map_layer"},
        {"base", "pretrain"},
        {"image", "attribution"},
        {"video", "combined"},
    ],
    "experiments": [
        {"errors", "ffmpeg", "gpus"},
        {"processes"},
        {"run_folder"},
        {"config"},
        {"tracking", "sweeps"},
        {"training"},
        {"exporting.program"},
        {"launchers", "predicting", "explaining", "reading"},
        {"exporting"},
        {"gpu_check"},
        {"doctor"},
        {"commands", "options", "warm"},
        {"cli"},
        {"__main__"},
    ],
}
"""For each room its floors, the lowest first. A room's `__init__` stands above all of them."""

APART = {("experiments.training", "experiments.sweeps")}
"""Wings of which the first may not import the second, though it stands on a lower floor."""

Arrow = tuple[str, str]


def modules(root: Path = ROOT) -> dict[str, Path]:
    """All files of the rooms by dotted name; a package by its own."""
    found = {}
    for room in ROOMS:
        for path in sorted((root / room).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def arrows(root: Path = ROOT) -> set[Arrow]:
    """Who imports whom, file by file: at the top, inside of functions and for types alike."""
    known = modules(root)
    return {
        (importer, imported)
        for importer, path in known.items()
        for imported in _imports(path, known)
        if imported != importer
    }


def wing_of(module: str) -> str:
    """The wing of a file, as `datamodules.store`; a room's own name stands for its face."""
    room, _, inner = module.partition(".")
    if not inner:
        return room
    names = (name for floor in FLOORS[room] for name in floor)
    holding = [name for name in names if inner == name or inner.startswith(f"{name}.")]
    if not holding:
        raise ValueError(f"{module} must be in a wing of FLOORS[{room!r}] (tools/house.py).")
    return f"{room}.{max(holding, key=len)}"


def forbidden(found: Iterable[Arrow]) -> list[str]:
    """Arrows that run upward, across, or into a room that may not be known; one line each."""
    lines = []
    for importer, imported in sorted(found):
        mine, theirs = wing_of(importer), wing_of(imported)
        room, other = importer.partition(".")[0], imported.partition(".")[0]
        if room != other:
            allowed = other in ROOMS[room] or imported in SHARED
        else:
            is_lower = _floor(theirs) < _floor(mine) and (mine, theirs) not in APART
            allowed = mine == theirs or is_lower
        if not allowed:
            lines.append(f"{importer} imports {imported}")
    return lines


def circles(found: Iterable[Arrow]) -> list[list[str]]:
    """Files that import each other in a loop, each loop sorted (Tarjan's components)."""
    next_to: dict[str, set[str]] = defaultdict(set)
    for importer, imported in found:
        next_to[importer].add(imported)
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    loops: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in next_to[node]:
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                loops.append(sorted(component))

    for node in sorted(next_to):
        if node not in index:
            visit(node)
    return loops


def draw(root: Path = ROOT) -> Iterator[str]:
    """The house as text: each room's floors from the top, each wing with what it imports."""
    known, found = modules(root), arrows(root)
    lines = {name: len(path.read_text().splitlines()) for name, path in known.items()}
    for room in reversed(ROOMS):
        total = sum(count for name, count in lines.items() if name.partition(".")[0] == room)
        yield f"{room}/  {total} lines"
        for floor in reversed(FLOORS[room]):
            for name in sorted(floor):
                wing = f"{room}.{name}"
                files = [m for m in known if m.partition(".")[2] and wing_of(m) == wing]
                if not files:
                    continue
                below = {wing_of(b) for a, b in found if wing_of(a) == wing} - {wing}
                shown = ", ".join(sorted(w.removeprefix(f"{room}.") for w in below)) or "nothing"
                size = sum(lines[m] for m in files)
                yield f"  {name:<16}{len(files):>3} files {size:>5} lines  -> {shown}"
    loops, wrong = circles(found), forbidden(found)
    yield f"circles: {len(loops)}; arrows upward or across: {len(wrong)}"
    yield from (f"  circle: {', '.join(loop)}" for loop in loops)
    yield from (f"  {line}" for line in wrong)


def _floor(wing: str) -> int:
    room, _, name = wing.partition(".")
    floors = FLOORS[room]
    return next((i for i, floor in enumerate(floors) if name in floor), len(floors))


def _imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & set(known)
            yield from inner or {str(node.module)}


if __name__ == "__main__":
    print("\n".join(draw()))

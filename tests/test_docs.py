"""The documents: what they cite is there, what they show runs, what code makes is up to date."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import make_reference
from experiments.cli import parser_of
from experiments.config.compose import compose
from experiments.config.study import study_keys
from experiments.sweeps.file import LauncherSettings, read_sweep
from tools import house

ROOT = Path(__file__).parents[1]
PAGES = sorted({*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")})
CODE = sorted(
    path
    for room in (*house.ROOMS, "benchmarks", "docs", "tests", "tools")
    for kind in ("*.py", "*.yaml", "*.sh")
    for path in (ROOT / room).rglob(kind)
    if path != Path(__file__)
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


@cache
def headings(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [line.strip() for line in re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them: lower case, punctuation dropped, spaces to hyphens."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings(page)}


def links(page: Path) -> list[str]:
    prose = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def citations(text: str) -> Iterator[tuple[str, str]]:
    """File and what follows it of each `docs/FILE.md, HEADING`, over line breaks and comments."""
    flat = re.sub(r"\s*\n\s*#?\s*", " ", text)
    for found in re.finditer(r"(docs/[\w/-]+\.md), ", flat):
        yield found[1], flat[found.end() :]


def broken_citations(text: str) -> list[str]:
    """Citations of a page or heading that is not there, and those of the design of before."""
    wrong = [
        f"{file}, {rest[:40]}"
        for file, rest in citations(text)
        if not (ROOT / file).is_file()
        or not any(re.match(rf'"?{re.escape(h)}\b', rest) for h in headings(ROOT / file))
    ]
    return wrong + re.findall(r"\bDESIGN\b.{0,20}", text)


def test_every_heading_that_code_cites_is_there() -> None:
    texts = {path: path.read_text() for path in CODE}
    assert {path.name: bad for path, text in texts.items() if (bad := broken_citations(text))} == {}
    cited = [file for text in texts.values() for file, _ in citations(text)]
    assert cited.count("docs/design.md") >= 11


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("A batch (docs/design.md, Batch) of rows.", 0),
        ('See docs/design.md, "Sweep folder" and more.', 0),
        ("See docs/design.md, Predictions\n    # table, for it.", 0),
        ("A batch (docs/design.md, Batches).", 1),
        ("See docs/nothing.md, Batch.", 1),
        ("A batch of the contract (DESIGN §2).", 1),
    ],
)
def test_a_broken_citation_is_found(text: str, wrong: int) -> None:
    assert len(broken_citations(text)) == wrong


@pytest.mark.parametrize("name", NAMES)
def test_every_relative_link_leads_somewhere(name: str) -> None:
    page = ROOT / name
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_reached_from_the_readme() -> None:
    reached, new = set(), {ROOT / "README.md"}
    while new:
        page = new.pop()
        reached.add(page)
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target not in reached:
                new.add(target)
    assert {page for page in PAGES if ROOT / "docs" in page.parents} <= reached


def test_the_readme_is_a_page() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1200


def test_files_and_folders_in_backticks_are_there() -> None:
    rooms = "|".join((*house.ROOMS, "benchmarks", "docs", "notebooks", "tests", "tools"))
    for page in PAGES:
        for name in re.findall(rf"`((?:{rooms})/[\w./-]*)`", page.read_text()):
            assert "NAME" in name or (ROOT / name).exists(), f"{name} ({page.name})"


def test_the_design_names_every_wing() -> None:
    text = (ROOT / "docs" / "design.md").read_text()
    for room in ("datamodules", "evaluation", "experiments"):
        table = text.partition(f"\n| `{room}` | |\n")[2].partition("\n\n")[0]
        named = set(
            re.findall(r"`([\w.]+)`", "\n".join(re.findall(r"^\| ([^|]*) \|", table, re.M)))
        )
        assert named == {wing for floor in house.FLOORS[room] for wing in floor}


def commands() -> list[str]:
    """Each `ceus` and `make` command of the documents, without comments and continued lines."""
    found = set()
    for page in PAGES:
        text = re.sub(r"\\\n\s*", "", page.read_text())
        shown = re.findall(r"^(?:    )?((?:\w+=\S+ )*(?:ceus|make) .+)$", text, flags=re.MULTILINE)
        shown += re.findall(r"`((?:ceus|make) [^`]+)`", text.replace("\n", " "))
        blocks = "reference" in page.parts  # usage lines
        found |= set() if blocks else {line.partition(" #")[0].strip() for line in shown}
    return sorted(found)


@pytest.mark.parametrize("command", commands())
def test_every_command_shown_is_one(command: str) -> None:
    if "…" in command:
        command = command.replace("…", "")
    words = shlex.split(re.sub(r"^(\w+=\S+ )+", "", command))
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert words[1] in targets
        return
    if words[1:] in ([], ["--help"], ["--debug"]):
        return
    assert words[1] in make_reference.COMMANDS
    shown = make_reference.help_of(words[1])
    assert all(word in shown for word in words if word.startswith("--") and word != "--help")
    settings = [word for word in words if re.match(r"[a-z_][\w.]*=", word)]
    if any("my" in word for word in words):
        return  # names the reader's own file or class
    if words[1] == "fit" and len(settings) > 1:
        compose(settings)
    elif words[1] == "sweep" and len(words) > 2 and words[2] != "FILE":
        file = read_sweep(words[2], settings)
        cell = [f"{key}={file.axes[key][0]}" for key in ("architecture", "modality")]
        compose([*cell, *(f"{key}={value}" for key, value in file.overrides.items())])


def machines() -> dict[str, dict[str, Any]]:
    """The YAML of the page on several machines, by the heading that it stands under."""
    page = (ROOT / "docs" / "how-to" / "several-machines.md").read_text()
    parts = re.findall(r"^#+ ([^\n]+)\n(.*?)(?=^#+ |\Z)", page, flags=re.DOTALL | re.MULTILINE)
    found = {
        title: re.search(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.M) for title, text in parts
    }
    return {title: yaml.safe_load(block[1]) for title, block in found.items() if block}


def test_the_job_of_kubernetes_is_one() -> None:
    validator = pytest.importorskip("kubernetes_validate")
    validator.validate(machines()["Kubernetes"], "1.30", strict=True)


def test_the_task_of_skypilot_is_one() -> None:
    pytest.importorskip("sky")
    from sky.utils import common_utils, schemas

    task = machines()["SkyPilot"]
    common_utils.validate_schema(task, schemas.get_task_schema(), "")
    common_utils.validate_schema(task["resources"], schemas.get_resources_schema(), "")


def test_workers_of_the_examples_are_called_as_the_command_is() -> None:
    found = machines()
    (container,) = found["Kubernetes"]["spec"]["template"]["spec"]["containers"]
    task = found["SkyPilot"]["run"].splitlines()[-1].split()
    for called in (container["command"], [Path(task[0]).name, *task[1:]]):
        assert parser_of(called[1:]).parse_args(called[1:]).folder == Path("runs/study")
    assert LauncherSettings(**found["A command of your own"]["launcher"]).kind == "command"
    page = (ROOT / "docs" / "how-to" / "several-machines.md").read_text()
    others = re.findall(r"^\| [\w ]+ \| `(.+)` \|$", page, re.MULTILINE)
    assert len(others) == 3
    for template in others:
        LauncherSettings(kind="command", parallel=1, command=template)


@pytest.mark.parametrize("name", ["configuration.md", "commands.md", "tables.md"])
def test_the_reference_is_what_the_code_gives(name: str) -> None:
    # By words: how usage lines are broken depends on the version of Python.
    committed = (ROOT / "docs" / "reference" / name).read_text().split()
    assert committed == make_reference.pages()[name].split(), "call `make docs`"


def test_the_reference_knows_every_setting() -> None:
    page = make_reference.pages()["configuration.md"]
    for name in (*study_keys(), *(field.name for field in fields(make_reference.SweepFile))):
        assert f"`{name}`" in page
    for name in ("launcher.slurm.hours", "analysis.primary.modalities", "weight_decay", "speckle"):
        assert f"`{name}`" in page

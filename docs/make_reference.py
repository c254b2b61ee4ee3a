"""The reference pages, made from the code: `python docs/make_reference.py`, or `make docs`.

`docs/reference/configuration.md` comes from the YAML files and their comments, the dataclasses that
read them and the constructors that they name; `commands.md` is the help of `ceus`; `tables.md` is
what an evaluation writes. `tests/test_docs.py` holds the pages to the code.
"""

import contextlib
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints
from unittest import mock

import yaml
from docstring_parser import parse
from lightning import LightningDataModule, LightningModule
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # called as a script, Python adds docs/ only

import backbones
import datamodules
import lightning_modules
from datamodules.store.columns import COLUMNS
from docs.reference_source import (
    Key,
    comment_of,
    dataclass_keys,
    parameters,
    summary,
    words_of,
    yaml_keys,
)
from evaluation import Tables
from experiments.cli import COMMANDS, main
from experiments.config.files import HERE
from experiments.config.study import Study
from experiments.sweeps.file import SweepFile

OUT = Path(__file__).parent / "reference"

_STUDY_KEY = r"\$\{study\.(\w+)\}"
_NOTE = "Made by `python docs/make_reference.py`; do not edit it by hand."


def pages() -> dict[str, str]:
    """The content of every page by its name in `docs/reference/`."""
    return {
        "configuration.md": "\n".join(_configuration()),
        "commands.md": "\n".join(_commands()),
        "tables.md": "\n".join(_tables()),
    }


def help_of(*command: str) -> str:
    """What `ceus COMMAND --help` prints, 88 columns wide."""
    shown = io.StringIO()
    with (
        mock.patch.dict(os.environ, {"COLUMNS": "88", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(shown),
        contextlib.suppress(SystemExit),
    ):
        main([*command, "--help"])
    return shown.getvalue().strip()


def _configuration() -> Iterator[str]:
    yield f"""# Every key of the configuration

{_NOTE}

A run is composed of YAML files in `experiments/yaml/`; later ones win: `base.yaml` ← `modality/*` ←
`architecture/*` ← `profile/*` ← a sweep's `overrides:` ← the command line. There any key is set as
`KEY=VALUE` by its dotted name; keys of `study:` may go without `study.`. How this works is told in
[the design](../design.md#configuration)."""
    yield from _run_keys()
    yield from _sweep_keys()
    yield from _architectures()
    yield from _files("modality", "Modalities", "which classes a modality is made of")
    yield from _files("profile", "Profiles", "what a profile changes")
    yield from _classes()
    yield ""


def _run_keys() -> Iterator[str]:
    hints, arguments = get_type_hints(Study), _arguments()
    # The types of what neither code nor a constructor's argument reads by itself.
    sizes = _load(min((HERE / "architecture").glob("*.yaml")))["study"]["sizes"]
    examples = _load(HERE / "base.yaml")["study"] | next(iter(sizes.values()))
    own, others = [], []
    for key in yaml_keys(HERE / "base.yaml"):
        room, _, name = key.name.partition(".")
        if room != "study":
            # A key of `study:` that is placed in an argument is in the table above.
            is_placed = room in ("model", "data") and re.search(_STUDY_KEY, key.default)
            others += [] if is_placed else [key]
            continue
        argument = arguments.get(name, Key(name, "", "", ""))
        kind = words_of(hints[name]) if name in hints else argument.type
        kind = kind or words_of(type(examples.get(name)))
        sized = re.search(r"\$\{study\.sizes\.\$\{study\.size\}\.\w+\}", key.default)
        default = "of the size" if sized else key.default
        own.append(Key(name, kind, default, key.text or argument.text))
    yield """
## Keys of a run

Under `study:` in `base.yaml`. `???` is set by the architecture's or the modality's file; "of the
size" is what the architecture's file gives under `sizes:` for `study.size`.
"""
    yield from _table(own)
    yield """
## Lightning's keys

The rest of `base.yaml`. Any argument of Lightning's `Trainer` may stand under `trainer:`, any
argument of the classifier and the datamodule under `model.init_args:` and `data.init_args:`
([below](#classes-that-yaml-can-name)).
"""
    yield from _table(others)


def _arguments() -> dict[str, Key]:
    """For a key of `study:` the constructor argument that YAML places it in."""
    found: dict[str, Key] = {}
    base = _load(HERE / "base.yaml")
    # The combined modality last: its docstrings say "the same" of what stands above them.
    for path in sorted(
        (HERE / "modality").glob("*.yaml"), key=lambda path: path.stem == "combined"
    ):
        content = _load(path)
        for room in ("model", "data"):
            given = base.get(room, {}).get("init_args", {}) | content[room].get("init_args", {})
            known = parameters(_class(content[room]["class_path"]))
            for name, value in given.items():
                match = re.fullmatch(_STUDY_KEY, str(value))
                if match and name in known:
                    found.setdefault(match[1], known[name])
    return found


def _sweep_keys() -> Iterator[str]:
    yield """
## Keys of a sweep file

The content of `experiments/yaml/sweep/*.yaml`, or of a file of your own. On the command line
`name=`, `data.*=`, `launcher.*=` and `analysis.*=` set these; an axis given there is narrowed to
that value, or in brackets to several; any other key is set in every run."""
    for place, cls, keys in dataclass_keys(SweepFile):
        yield f"\n### {f'`{place}:`' if place else 'At the top'}\n\n{summary(cls)}\n"
        yield from _table(keys)


def _architectures() -> Iterator[str]:
    yield """
## Shipped architectures

Files of `experiments/yaml/architecture/`, each with the two sizes of `study.size`.
"""
    plain = ("image_size", "video_size", "num_frames", "encoder_lr", "head_lr")
    rows = []
    for path in sorted((HERE / "architecture").glob("*.yaml")):
        study = _load(path)["study"]
        for size, given in study["sizes"].items():
            encoders = [_encoder(given[name]) for name in ("image_encoder", "video_encoder")]
            values = [f"{given[name]:g}" for name in plain]
            rows.append([f"`{study['architecture']}`", f"`{size}`", *encoders, *values])
    yield from _rows(["architecture", "size", "image encoder", "video encoder", *plain], rows)


def _encoder(given: Mapping[str, Any]) -> str:
    cls = given["class_path"].rpartition(".")[2]
    return f"`{given['init_args']['name']}` ({cls})"


def _files(group: str, title: str, what: str) -> Iterator[str]:
    yield f"\n## {title}\n\nFiles of `experiments/yaml/{group}/`: {what}."
    for path in sorted((HERE / group).glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        above = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
        yield f"\n### `{group}={path.stem}`\n\n{' '.join(map(comment_of, above))}\n"
        keys = [key for key in yaml_keys(path) if key.name != f"study.{group}"]
        # What a class is made with stands in the file; here is which class it is.
        yield from _table(keys, "value")


def _classes() -> Iterator[str]:
    yield """
## Classes that YAML can name

Each with its `init_args`. A class of your own is named in the same way, by the path that it is
imported from."""
    for title, base, classes in _groups():
        common = parameters(base) if base else {}
        yield f"\n### {title}"
        if common and base:
            yield f"\nAll of them take, from `{base.__name__}`:\n"
            yield from _table(list(common.values()))
        for path, cls in classes.items():
            # The widths of the features come from the encoders.
            hidden = {*common, "image_features", "video_features"}
            keys = [key for name, key in parameters(cls).items() if name not in hidden]
            yield f"\n#### `{path}`\n\n{summary(cls)}"
            if keys:
                yield ""
                yield from _table(keys)


def _groups() -> Iterator[tuple[str, type | None, dict[str, type]]]:
    """Title, the base whose settings all classes share, and the classes by their path."""
    samplings = _public(datamodules, datamodules.FrameSampling)
    yield "Frame samplings", datamodules.FrameSampling, samplings
    yield "Augmentation", None, {"datamodules.Augment": datamodules.Augment}
    networks = _public(backbones, nn.Module)
    heads = {path: cls for path, cls in networks.items() if "image_features" in parameters(cls)}
    encoders = {path: cls for path, cls in networks.items() if path not in heads}
    yield "Encoders", None, encoders
    yield "Fusion heads", None, heads
    yield (
        "Classifiers",
        lightning_modules.PatientClassifier,
        _public(lightning_modules, LightningModule),
    )
    modules = _public(datamodules, LightningDataModule)
    yield "Datamodules", next(iter(modules.values())).__base__, modules


def _public(room: Any, base: type) -> dict[str, type]:
    named = {f"{room.__name__}.{name}": getattr(room, name) for name in room.__all__}
    return {
        path: cls
        for path, cls in named.items()
        if inspect.isclass(cls) and issubclass(cls, base) and not inspect.isabstract(cls)
    }


def _commands() -> Iterator[str]:
    yield f"""# Commands

{_NOTE}

Exit codes: 0, all went well; 1, runs failed; 2, something for you to mend; 3, the test set was
opened again or something changed since it was opened; 130, stopped by Ctrl-C. Of `ceus doctor`
1 is a warning and 2 a failure.

```
{help_of()}
```"""
    for name in COMMANDS:
        yield f"\n## `ceus {name}`\n\n```\n{help_of(name)}\n```"
    yield ""


def _tables() -> Iterator[str]:
    yield f"""# Tables

{_NOTE}

## Of an evaluation

`ceus evaluate runs/NAME` writes them into `runs/NAME/evaluation/`. Every number of the report and
of its figures is in one of them. What is undefined is empty there, and `reason` says why.
"""
    described = parse(Tables.__doc__ or "").params
    rows = [[f"`{each.arg_name}.csv`", str(each.description)] for each in described]
    yield from _rows(["file", "what it holds"], [[" ".join(c.split()) for c in r] for r in rows])
    yield """
## Of the store

`cohort.parquet`, one row an item, sorted by patient; after these, the covariates asked for.
A sweep's folder has a copy without the hold-out's labels.
"""
    columns = [[f"`{each.name}`", words_of(each.kind), each.meaning] for each in COLUMNS]
    yield from _rows(["column", "type", "what it holds"], columns)
    yield ""


def _table(keys: Sequence[Key], default: str = "default") -> Iterator[str]:
    """A table of keys; a column that would be empty throughout is left out."""
    keys = [replace(key, name=f"`{key.name}`") for key in keys]
    columns = {
        "key": [key.name for key in keys],
        "type": [key.type for key in keys],
        default: [key.default for key in keys],
        "meaning": [key.text for key in keys],
    }
    used = {title: cells for title, cells in columns.items() if any(cells)}
    yield from _rows(list(used), list(zip(*used.values(), strict=True)))


def _rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield "|" + " --- |" * len(titles)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _load(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


def _class(path: str) -> type:
    module, _, name = path.rpartition(".")
    cls: type = getattr(import_module(module), name)
    return cls


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    for name, content in pages().items():
        (OUT / name).write_text(content, encoding="utf-8")
        print(OUT / name)

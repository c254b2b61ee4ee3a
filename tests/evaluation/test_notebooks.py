"""The notebooks run on whole and on odd sweeps, define nothing, and are stored without output."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from evaluation import unseal

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NAMES = ("cohort", "compare_architectures", "fold_results")


def read(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_these_are_all():
    assert sorted(path.stem for path in FOLDER.iterdir() if path.suffix) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_stored_notebook_is_clean_and_short(name):
    notebook = read(name)
    nbformat.validate(notebook)
    first, *rest = code_of(notebook)
    assert first.metadata.tags == ["parameters"]
    assert not any("tags" in cell.metadata for cell in rest)
    for cell, before in zip(notebook.cells[1:], notebook.cells, strict=False):
        if cell.cell_type == "code":
            assert not cell.outputs, "clear the outputs: they may show patients"
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 45
            # What to read from a cell stands before it.
            assert before.cell_type == "markdown"
            assert 20 < len(before.source) < 900
    names = {"kernelspec", "language_info"}
    assert set(notebook.metadata) == names
    imported = set()
    for node in ast.walk(ast.parse("\n".join(cell.source for cell in code_of(notebook)))):
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
        assert not isinstance(node, kinds), "what it needs is a tested function of evaluation"
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    third = imported - set(sys.stdlib_module_names)
    assert third == {"evaluation", "matplotlib", "numpy", "pandas"}


@pytest.fixture(scope="module")
def opened(sweep_maker, tmp_path_factory):
    """Three modalities, two seeds, a deployed model, the hold-out open, a primary contrast."""
    path = tmp_path_factory.mktemp("opened") / "trial"
    made = sweep_maker(
        path,
        modalities=("image", "video", "combined"),
        folds=(0, 1, "all"),
        seeds=(0, 1),
        analysis={"primary": {"modalities": ["combined", "image"]}},
    ).write()
    unseal(made.path, made.store, reason="final analysis")
    return made


@pytest.fixture(scope="module")
def odd(sweep_maker, tmp_path_factory):
    """One modality, one architecture with a fold missing, the hold-out sealed."""
    path = tmp_path_factory.mktemp("odd") / "trial"
    made = sweep_maker(path, modalities=("image",), folds=(0, 1, 2)).write()
    made.status(made.run_ids(architecture="beta", fold=2)[0], "failed", "out of memory")
    return made


def run(name, **environment):
    """The executed notebook, in a kernel that sees these variables."""
    notebook = read(name)
    names = ("CEUS_SWEEP", "CEUS_STORE")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}})
    with client.setup_kernel(env=clean | {key: str(value) for key, value in environment.items()}):
        for index, cell in enumerate(notebook.cells):
            client.execute_cell(cell, index)
    return notebook


def shown(notebook):
    """Text of all outputs, and how many figures there are."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"], "a warning is for the reader too"
    data = [output.data for output in outputs if "data" in output]
    text = "".join(o.text for o in outputs if o.output_type == "stream")
    text += "".join(each.get("text/plain", "") for each in data)
    return text, sum("image/png" in each for each in data)


def test_fold_results(opened, odd):
    text, figures = shown(run("fold_results", CEUS_SWEEP=opened.path))
    assert figures == 4
    assert "sd_seeds" in text
    assert not any(name in text for name in opened.hidden)
    text, figures = shown(run("fold_results", CEUS_SWEEP=odd.path))
    assert figures == 3
    assert "One modality" in text


def test_compare_architectures(opened, odd):
    text, figures = shown(run("compare_architectures", CEUS_SWEEP=opened.path))
    assert figures == 3
    assert "Openings of the hold-out: 1." in text
    assert "test" in text
    assert "None was declared" not in text
    text, figures = shown(run("compare_architectures", CEUS_SWEEP=odd.path))
    assert figures == 3
    assert "5 of 6 runs are done" in text
    assert "Openings of the hold-out: 0." in text
    assert "None was declared" in text


def test_cohort(odd, store):
    text, figures = shown(run("cohort", CEUS_SWEEP=odd.path))
    assert "50 patients, 60 images, 50 clips" in text
    assert "sealed" in text
    assert "# damaged frames, concealed" in text
    assert figures == 1
    text, figures = shown(run("cohort", CEUS_STORE=store))
    assert "26 patients" in text
    assert "sealed" not in text
    assert figures == 2
    assert not any(name in text for name in (*odd.development, "P0001"))


def test_make_runs_them_into_the_sweep_folder(tmp_path):
    """The recipe as make would run it; that it works is what the other tests are for."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("needs make")
    command = [make, "--dry-run", "--no-print-directory", "notebooks", "SWEEP=mine"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    recipe = next(line for line in printed.splitlines() if "nbconvert" in line)
    assert f"CEUS_SWEEP={ROOT}/runs/mine " in recipe
    assert "--execute --to html --output-dir runs/mine/notebooks " in recipe
    assert all(f"notebooks/{name}.ipynb" in recipe or "*.ipynb" in recipe for name in NAMES)

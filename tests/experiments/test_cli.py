"""The command line: help, and one clear error for each mistake."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli import main

DEMO = Path(__file__).parents[2] / "experiments" / "yaml" / "sweep" / "demo.yaml"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as caught:
        main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return int(caught.value.code or 0), printed.out, printed.err


def test_help_lists_the_commands_without_torch() -> None:
    probe = (
        "import sys; from experiments.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules)"
    )
    shown = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    for name in ("phantom", "prepare", "split", "fit", "sweep", "status", "evaluate"):
        assert f"    {name} " in shown.stdout
    assert shown.stdout.rstrip().endswith("False")


ONE_RUN = ("architecture=resnet", "modality=image", "fold=0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep", DEMO, "architecture=vgg", "store={store}"], "architecture must be one of"),
        (["sweep", DEMO, "fold=9", "store={store}"], "fold must be 0 to 1 or 'all', got 9"),
        (["sweep", DEMO, "store=nowhere"], "store must be a folder, got none"),
        (["sweep", "store=nowhere", DEMO, "--evaluate"], "store must be a folder, got none"),
        (["sweep", DEMO, "--evaluate", "store=nowhere"], "store must be a folder, got none"),
        (["sweep", DEMO, "storr=x"], "Did you mean store"),
        (["sweep", DEMO, "store={store}", *ONE_RUN, "model.init_args.encodr_lr=1"], "encodr_lr"),
        (["fit", "architecture=resnet", "modality=image", "store={store}", "seed=x"], "seed"),
        (["sweep", "nothing.yaml"], "sweep must be one of demo, study or the path of a YAML file"),
        (["prepare", "nothing.csv", "out"], "nothing.csv"),
        (["status", "nowhere"], "folder must hold a sweep"),
        (["evaluate", "nowhere"], "nowhere"),
        (["split", "{store}", "--folds", "1"], "num_folds must be 2 or more, got 1"),
    ],
)
def test_a_mistake_is_one_error_and_code_2(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    store: Path,
    tmp_path: Path,
    arguments: list[str | Path],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *(str(a).format(store=store) for a in arguments))
    assert code == 2
    assert message in err
    assert err.startswith("error: ")
    assert "Traceback" not in err
    assert not out
    assert not list(tmp_path.iterdir())


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "--debug", "status", "nowhere")
    assert code == 2
    assert "Traceback" in err


def test_a_wrong_type_is_found_before_anything_starts(
    capsys: pytest.CaptureFixture[str], store: Path, tmp_path: Path
) -> None:
    common = [f"store={store}", f"runs={tmp_path / 'runs'}", *ONE_RUN]
    begun = time.monotonic()
    code, _, err = run(capsys, "sweep", DEMO, *common, "trainer.max_epochs=many")
    assert code == 2, err
    assert "max_epochs" in err
    assert "Traceback" not in err
    assert len(err.splitlines()) < 12
    assert not (tmp_path / "runs").exists()
    assert time.monotonic() - begun < 60  # imports in the server, on a machine that tests share


def test_a_package_of_the_same_name_in_the_users_folder_is_not_run(
    store: Path, tmp_path: Path
) -> None:
    for name in ("experiments", "datamodules"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    own = Path(__file__).parent / "own"
    settings = [f"architecture={own / 'tiny.yaml'}", "modality=image", "trainer.max_epochs=1"]
    command = [sys.executable, "-P", "-m", "experiments", "fit", *settings, f"store={store}"]
    run = subprocess.run(
        [*command, "wandb=false"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}{os.pathsep}{own}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 done" in run.stdout

"""The best architecture of each modality is trained once more, on all development patients."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evaluation import evaluate
from evaluation.records.listing import ListedRun, read_listing
from experiments.commands import sweep
from experiments.errors import ConfigError
from experiments.run_folder.status import read_status
from experiments.sweeps.deploy import oof_auc
from experiments.sweeps.file import read_sweep

OWN = Path(__file__).parents[1] / "own"
FILE = """
name: several
axes:
  architecture: [TINY]
  modality: [image, video]
  fold: [0, 1]
  head_lr: [0.03, 1.0e-9]
deploy: best
launcher: {parallel: 2}
analysis: {primary: {modalities: [video, image]}}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "several.yaml"
    path.write_text(FILE.replace("TINY", str(OWN / "tiny.yaml")))
    return path


def deployed(folder: Path) -> list[ListedRun]:
    return [run for run in read_listing(folder).runs if run.fold == "all"]


def test_the_best_of_each_modality_is_deployed_when_the_folds_are_done(
    file: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = [f"store={store}", f"runs={tmp_path}", "wandb=false", "trainer.max_epochs=2"]
    folder = tmp_path / "several"
    assert sweep(str(file), [*settings, "fold=0"], freeze=True) == 0
    assert sweep(str(file), settings, freeze=True, extend=True) == 0
    assert deployed(folder) == []  # there are no results to choose by
    assert sweep(str(file), settings) == 0
    told = capsys.readouterr().out
    aucs = pd.DataFrame(
        {"modality": run.modality, "name": run.architecture, "auc": oof_auc(folder / run.run_id)}
        for run in read_listing(folder).runs
        if run.fold != "all"
    )
    assert len(aucs) == 8
    means = aucs.groupby(["modality", "name"]).auc.mean()
    for modality in ("image", "video"):
        (run,) = (run for run in deployed(folder) if run.modality == modality)
        assert means[modality, run.architecture] == means[modality].max()
        assert f"{run.architecture} {modality}" in told
        assert read_status(folder / run.run_id).state == "done"
    assert "10 done, 0 failed" in told
    sources = sorted(evaluate(folder).tables.test["source"])
    assert sources == ["deployed model"] * 2 + ["ensemble of fold models"] * 2

    # Called again nothing is left to do, whatever the others would reach by now.
    before = deployed(folder)
    for listed in read_listing(folder).runs:
        if (listed.architecture, listed.modality) == before[0].cell[:2] and listed.fold != "all":
            path = folder / listed.run_id / "predictions.parquet"
            table = pd.read_parquet(path)
            table.assign(logit=np.where(table["label"] == 1, -9.0, 9.0)).to_parquet(path)
    assert sweep(str(file), settings) == 0
    assert "10 done, 0 failed, 0 left" in capsys.readouterr().out
    assert deployed(folder) == before


def test_all_and_best_are_not_asked_for_together(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(file.read_text().replace("[0, 1]", "[0, all]"))
    with pytest.raises(ConfigError, match=r"deploy must be none where the axis fold has .* best"):
        read_sweep(path)
    assert read_sweep(path, ["deploy=none"]).deploy == "none"

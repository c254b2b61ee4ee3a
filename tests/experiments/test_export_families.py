"""ONNX Runtime gives what torch gives: five families, image, clip and both, on phantom patients."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments.config.compose import compose
from experiments.config.run import Run, make_run
from experiments.exporting.export import export
from experiments.exporting.program import log_odds, names_of, run_onnx
from experiments.run_folder.status import BEST, Status, write_status
from experiments.training.build import build
from experiments.training.checkpoints import IDENTITY, AtomicCheckpointIO, identity
from experiments.training.trained import load_trained

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

FAMILIES = ("resnet", "densenet", "inception", "mvit", "swin")
MODALITIES = ("image", "video", "combined")


def untrained(run: Run) -> None:
    """A run's folder as it is when it is done, its weights those that training begins with."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(yaml.safe_dump(run.config))
    write_status(run.folder, Status(state="done"))
    _, model, _ = build(run.config, root=run.folder)
    content = {"state_dict": model.state_dict(), IDENTITY: identity(run)}
    AtomicCheckpointIO().save_checkpoint(content, run.folder / "checkpoints" / BEST)


def cells() -> Iterator[Any]:
    """Of each family both encoders at once, of one all modalities; the others take minutes."""
    for size, family, modality in product(("light", "full"), FAMILIES, MODALITIES):
        quick = size == "light" and (modality == "combined" or family == "resnet")
        marks = [] if quick else [pytest.mark.slow, pytest.mark.timeout(1800)]
        yield pytest.param(family, modality, size, marks=marks)


@pytest.mark.parametrize(("family", "modality", "size"), list(cells()))
def test_onnx_equals_torch(
    family: str, modality: str, size: str, store: Path, tmp_path: Path
) -> None:
    cell = [f"architecture={family}", f"modality={modality}", f"size={size}"]
    cell += ["pos_weight=2", "mirror_views=true"]
    nothing_loaded = [
        f"study.sizes.{size}.{kind}_encoder.init_args.pretrained=false"
        for kind in ("image", "video")
    ]
    place = [f"store={store}", f"runs={tmp_path}", "wandb=false", "trainer.accelerator=cpu"]
    run = make_run(compose([*cell, *nothing_loaded, *place]))
    untrained(run)
    export(run.folder)
    trained = load_trained(run.folder)
    data = trained.data
    batch = data.read_finished(data.evaluation_rows(data.patients("oof")[:2])[:2])
    rows = tuple(batch[name] for name in names_of(trained))
    given = run_onnx(run.folder / "exported" / "model.onnx", rows)
    torch.testing.assert_close(given, log_odds(trained, rows), atol=1e-4, rtol=0)

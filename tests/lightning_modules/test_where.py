"""On the phantom it is known where the label lies: a trained network must look there."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.explaining import concentration, nodule
from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import PhantomPreset, make_phantom
from datamodules.store.splits import make_split
from experiments.training.trained import load_trained
from lightning_modules.attribution import attribute, importance_in_time, randomised
from tests.command import ceus

SEED, SIDE, DEPTH = 1, 64, 22.0
PHANTOM = PhantomPreset(
    patients=80,
    positives=40,
    image_auc=0.98,
    video_auc=0.98,
    clip_seconds=(3.0, 3.0),
    fps=(4, 4),
    clip_size=(SIDE, SIDE),
    image_size=(SIDE, SIDE),
    depth_mm=DEPTH,
    clip_depth_mm=DEPTH,
    time_scale=0.06,
)


@pytest.mark.slow
def test_a_trained_network_looks_into_the_nodule(tmp_path: Path) -> None:
    cohort = make_phantom(tmp_path / "cohort", seed=SEED, preset=PHANTOM, workers=1, progress=False)
    store = tmp_path / "store"
    prepare(cohort, store, canvas=SIDE, as_is=True, progress=False, workers=1)
    make_split(store, num_folds=2)
    settings = ["architecture=mvit", "modality=video", "profile=demo", "wandb=false"]
    where = [f"store={store}", f"runs={tmp_path / 'runs'}", "trainer.max_epochs=20"]
    result = ceus("fit", *settings, *where)
    assert result.returncode == 0, result.stderr
    (folder,) = (tmp_path / "runs" / "fit").glob("mvit*")
    trained = load_trained(folder)
    model, data = trained.model, trained.data
    truth = json.loads((tmp_path / "cohort" / "truth.json").read_text())
    arrivals = {
        each["patient_id"]: each["clips"][0]["boluses"]["carotid"]["arrival_s"]
        for each in truth["patients"]
    }
    learned, random = [], []
    for row in data.evaluation_rows(data.patients("oof")[:24]):
        batch = data.read_finished([row])
        if model.logits(batch) <= model.logit_shift:
            continue
        inside = nodule(row.patient_id, batch["video"].shape[-1], seed=SEED, depth_mm=DEPTH)
        learned.append(concentration(attribute("grad_cam", model, batch, "video", rows=8), inside))
        assert row.window is not None
        last = row.window[int(importance_in_time(model, batch, rows=8).argmax())]
        assert last / 4 > arrivals[row.patient_id]
        if len(learned) > 5:
            continue
        # One network of random weights varies widely, and is as wrong on all patients: many.
        for seed in range(30):
            with randomised(model, seed=seed):
                lean = 1 if model.logits(batch) > model.logit_shift else -1
                found = attribute("grad_cam", model, batch, "video", rows=8)
                assert found is not None
                random.append(concentration(lean * found, inside))
    assert len(learned) >= 5
    assert np.mean(learned) >= 2
    assert np.mean(random) < 1.2

"""On the phantom it is known where the label lies: trained networks must look there."""

import json
import statistics
from pathlib import Path

import pytest

from benchmarks.explaining import of_run, scored
from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import make_phantom
from datamodules.store.splits import make_split
from lightning_modules.attribution import importance_in_time
from tests.command import ceus

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

FAMILIES = ("resnet", "densenet", "inception", "mvit", "swin")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's phantom and, trained on one of its folds, all networks of one modality."""
    folder = tmp_path_factory.mktemp("demo")
    cohort = make_phantom(folder / "cohort", seed=0, preset="demo", progress=False)
    prepare(cohort, folder / "store", canvas=128, as_is=True, progress=False)
    make_split(folder / "store", num_folds=2)
    axes = ("modality=[image, video]", "fold=0", "deploy=none", "wandb=false")
    done = ceus("sweep", "demo", f"store={folder / 'store'}", f"runs={folder / 'runs'}", *axes)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("modality", ["image", "video"])
def test_trained_networks_look_into_the_nodule(demo: Path, modality: str) -> None:
    learned, random = {}, {}
    for family in FAMILIES:
        found = of_run(run_of(demo, family, modality), demo / "cohort", modality, ("occlusion",))
        learned[family] = statistics.mean(found["occlusion", "high"])
        random[family] = statistics.mean(found["occlusion", "random"])
    assert min(learned.values()) >= 1.8, learned  # on each phantom and machine another
    assert statistics.mean(learned.values()) >= 2
    assert statistics.mean(random.values()) < 1.2
    assert all(learned[family] > 1.5 * random[family] for family in FAMILIES), (learned, random)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_clip_speaks_by_what_comes_after_arrival(demo: Path, family: str) -> None:
    truth = json.loads((demo / "cohort" / "truth.json").read_text())["patients"]
    clips = {each["patient_id"]: each["clips"][0] for each in truth}
    model, rows = scored(run_of(demo, family, "video"))
    for row, batch in rows[-6:]:
        clip = clips[row.patient_id]
        most = int(importance_in_time(model, batch, rows=8).argmax())
        assert row.window is not None
        assert row.window[most] / clip["fps"] > clip["boluses"]["nodule"]["arrival_s"]


def run_of(demo: Path, family: str, modality: str) -> Path:
    (run,) = (demo / "runs" / "demo").glob(f"{family}-{modality}-*")
    return run

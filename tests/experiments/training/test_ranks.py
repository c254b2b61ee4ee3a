"""One process or several: the same figures, the same training; none waits for another for ever."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from datamodules.store.splits import load_split
from experiments.config.compose import compose
from experiments.errors import ConfigError
from experiments.training.build import build
from experiments.training.ranks import _processes

OWN = Path(__file__).parents[1] / "own"
CUDA = torch.cuda.device_count() if torch.cuda.is_available() else 0


@pytest.fixture(autouse=True)
def own_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(OWN)


@pytest.fixture(params=["gloo", pytest.param("nccl", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "gloo":
        return ["trainer.accelerator=cpu"]
    if CUDA < 3:
        pytest.skip("NCCL needs a device a process, here three")
    return ["trainer.accelerator=gpu"]


def cell(store: Path, *overrides: str) -> dict[str, Any]:
    tiny = [f"architecture={OWN / 'tiny.yaml'}", f"store={store}", "num_threads=1", *overrides]
    return compose(tiny)


def on_ranks(work: str, *arguments: Any, world: int, folder: Path) -> None:
    import ranks

    folder.mkdir(exist_ok=True)
    ranks.on_ranks(getattr(ranks, work), *arguments, folder, world=world, folder=folder)


def test_figures_and_predictions_do_not_depend_on_the_number_of_processes(
    store: Path, tmp_path: Path, device: list[str]
) -> None:
    for world in (1, 2, 3):
        configs = {
            modality: cell(
                store,
                f"modality={modality}",
                "eval_batch_size=3",
                f"trainer.devices={world}",
                *device,
            )
            for modality in ("image", "video", "combined")
        }
        on_ranks("evaluate", configs, world=world, folder=tmp_path / str(world))
    sizes = {part: len(ids) for part, ids in load_split(store, "default").parts(0).items()}
    assert any(n % 2 for n in sizes.values())
    assert any(n % 3 for n in sizes.values())
    assert min(sizes.values()) < 3, "a part of fewer patients than processes"
    for modality in ("image", "video", "combined"):
        figures = [json.loads((tmp_path / f"{n}/{modality}.json").read_text()) for n in (1, 2, 3)]
        tables = [pd.read_parquet(tmp_path / f"{n}/{modality}.parquet") for n in (1, 2, 3)]
        for name in ("inner_bce", "inner_auroc"):
            assert [f[name] for f in figures] == pytest.approx([figures[0][name]] * 3, abs=1e-6)
        keys = ["part", "patient_id", "label", "n_items"]
        for table in tables[1:]:
            pd.testing.assert_frame_equal(table[keys], tables[0][keys])
            assert (table["logit"] - tables[0]["logit"]).abs().max() < 1e-6
            assert (table["probability"] - tables[0]["probability"]).abs().max() < 1e-6


@pytest.mark.parametrize(
    "overrides",
    [
        ["modality=combined", "study.head.init_args.dropout=0"],
        [
            "modality=image",
            "fold=all",
            "class_sampling=balanced",
            "pos_weight=1",
            "freeze_epochs=1",
        ],
    ],
    ids=["uneven", "balanced-frozen"],
)
def test_two_processes_of_four_follow_one_of_eight(
    store: Path, tmp_path: Path, device: list[str], overrides: list[str]
) -> None:
    found = []
    for world in (1, 2):
        config = cell(
            store,
            *overrides,
            f"batch_size={8 // world}",
            f"trainer.devices={world}",
            "trainer.max_epochs=3",
            *device,
        )
        on_ranks("train", config, world=world, folder=tmp_path / str(world))
        found.append(json.loads((tmp_path / f"{world}/trained.json").read_text()))
    one, two = found
    assert len(one["losses"]) >= 3
    assert len(set(one["losses"])) == len(one["losses"]), "it trains"
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["drift"] < 1e-9
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-5)


@pytest.mark.parametrize(("devices", "count"), [(2, 2), ("3", 3), ("auto", 1)])
def test_as_many_processes_are_forked_as_lightning_counts(devices: int | str, count: int) -> None:
    assert _processes({"accelerator": "cpu", "devices": devices}) == count


def test_batch_norm_over_processes_is_refused_on_a_cpu(store: Path, tmp_path: Path) -> None:
    on_cpu = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.sync_batchnorm=true"]
    with pytest.raises(ConfigError, match="sync_batchnorm must be false on a CPU"):
        build(cell(store, "modality=image", *on_cpu), root=tmp_path)


@pytest.mark.gpu
@pytest.mark.skipif(CUDA < 2, reason="NCCL needs a device a process, here two")
def test_batch_norm_over_processes_follows_one_process(store: Path, tmp_path: Path) -> None:
    found = []
    for world in (1, 2):
        config = cell(
            store,
            "modality=image",
            "fold=all",
            "study.image_encoder.class_path=own_package.NormedEncoder",
            f"batch_size={8 // world}",
            f"trainer.devices={world}",
            "trainer.accelerator=gpu",
            "trainer.sync_batchnorm=true",
            "trainer.max_epochs=3",
        )
        on_ranks("train", config, world=world, folder=tmp_path / str(world))
        found.append(json.loads((tmp_path / f"{world}/trained.json").read_text()))
    assert found[1]["losses"] == pytest.approx(found[0]["losses"], abs=1e-3)

"""The store as others see it."""

import json
import shutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.ingest.prepare import prepare
from datamodules.store.columns import COLUMNS
from datamodules.store.folder import Store


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, media: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("store")
    media.write_video(folder / "clip", media.KINDS["mjpeg-avi"], numbers=range(5))
    Image.fromarray(media.numbered_frame(7)).save(folder / "still.png")
    table = folder / "cohort.csv"
    table.write_text("patient_id,label,modality,path\nb,1,ceus,clip.avi\na,0,image,still.png\n")
    return prepare(table, folder / "store", canvas=64, as_is=True, progress=False, workers=1)


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "store"))


def test_contents(store: Path, media: ModuleType) -> None:
    opened = Store(store)
    assert opened.canvas == 64
    assert opened.labels == {"a": 0, "b": 1}
    assert list(opened.items["modality"]) == ["image", "ceus"]
    image = opened.image(opened.items["item_id"][0])
    assert (image.shape, image.dtype) == ((3, 64, 64), np.uint8)
    assert media.read_number(image.transpose(1, 2, 0)) == 7


def test_sha_follows_what_matters(store: Path) -> None:
    table = pd.read_parquet(store / "cohort.parquet")
    before = Store(store).sha
    for change in (
        {"label": 0}, {"patient_id": "c"}, {"item_sha": "f" * 64}, {"split": "test"},
        {"arrival_s": 0.2}, {"peak_s": 0.3},
    ):  # fmt: skip
        table.assign(**change).to_parquet(store / "cohort.parquet")
        assert Store(store).sha != before, change
    table[::-1].assign(warnings="w", centre=3, split="").to_parquet(store / "cohort.parquet")
    assert Store(store).sha == before


def test_wrong_modality_or_item(store: Path) -> None:
    opened = Store(store)
    with pytest.raises(DataError, match=r"modality image, got '[0-9a-f]{16}' of modality ceus"):
        opened.image(opened.items["item_id"][1])
    with pytest.raises(DataError, match=r"got 'none' of modality None"):
        opened.item_path("none", ".idx")


def test_damaged_image(store: Path) -> None:
    opened = Store(store)
    opened.item_path(opened.items["item_id"][0], ".png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"image must be readable"):
        opened.image(opened.items["item_id"][0])


def test_not_a_store(store: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"store must be a folder, got none .*ceus prepare"):
        Store(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"store must hold a store.json"):
        Store(tmp_path)
    (store / "store.json").write_text(json.dumps({"format": 99, "canvas": 64}))
    with pytest.raises(DataError, match=r"format of the store must be 3, got 99"):
        Store(store)
    (store / "store.json").write_text("[]")
    with pytest.raises(DataError, match=r"store must hold a store.json, got TypeError"):
        Store(store)


def test_unfinished(store: Path) -> None:
    (store / "cohort.parquet").unlink()
    with pytest.raises(DataError, match=r"did not finish: run it again"):
        Store(store)


def test_the_columns_are_those_of_the_definition_and_the_rest_are_covariates(
    tmp_path: Path, media: ModuleType
) -> None:
    for number in range(2):
        Image.fromarray(media.numbered_frame(number)).save(tmp_path / f"{number}.png")
    media.write_video(tmp_path / "clip", media.KINDS["mjpeg-avi"], numbers=range(20))
    Image.new("L", (media.WIDTH, media.HEIGHT), 255).save(tmp_path / "mask.png")
    (tmp_path / "cohort.csv").write_text(
        "patient_id,label,modality,path,split,arrival_s,mask,age,centre,name\n"
        "a,0,image,0.png,train,,,61,A,Jane\n"
        "a,0,ceus,clip.avi,train,0.3,mask.png,61,A,Jane\n"
        "b,1,image,1.png,test,,,,B,Joan\n"
    )
    prepared = prepare(
        tmp_path / "cohort.csv", tmp_path / "store", canvas=64, covariates=["centre", "age"],
        as_is=True, progress=False, workers=1,
    )  # fmt: skip
    opened = Store(prepared)
    assert opened.covariates == ("centre", "age")
    assert opened.item_columns == tuple(column.name for column in COLUMNS)
    assert tuple(opened.items) == (*opened.item_columns, *opened.covariates)
    kinds = {column.name: column.kind for column in COLUMNS}
    for name in opened.item_columns:
        values = opened.items[name]
        if kinds[name] is str:
            assert all(isinstance(value, str) for value in values), name
        else:
            assert values.dtype.kind == {int: "i", float: "f"}[kinds[name]], name
    assert opened.items["arrival_s"].dropna().tolist() == [0.3]


def test_a_store_without_optional_columns_has_no_covariates(store: Path) -> None:
    opened = Store(store)
    assert opened.covariates == ()
    assert opened.item_columns == tuple(c.name for c in COLUMNS if c.name not in ("split", "mask"))

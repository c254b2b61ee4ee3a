"""Composition of the shipped YAML files, overrides, ids, and what is refused."""

import copy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from datamodules.errors import DataError
from experiments.config.compose import compose
from experiments.config.files import HERE
from experiments.config.run import make_run
from experiments.config.study import study_of
from experiments.errors import ConfigError
from experiments.sweeps.expand import configs_of
from experiments.sweeps.file import read_sweep
from experiments.training.build import check

ROOT = Path(__file__).parents[3]
ARCHITECTURES = sorted(path.stem for path in (HERE / "architecture").glob("*.yaml"))
MODALITIES = ["image", "video", "combined"]
CELL = ["architecture=resnet", "modality=combined", "profile=demo"]


def test_the_five_architectures_and_frames_are_there() -> None:
    assert ARCHITECTURES == ["densenet", "frames", "inception", "mvit", "resnet", "swin"]


def test_every_cell_of_every_profile_fits_its_constructors() -> None:
    configs = [
        compose([f"architecture={a}", f"modality={m}", f"profile={p.stem}"])
        for a in ARCHITECTURES
        for m in MODALITIES
        for p in (HERE / "profile").glob("*.yaml")
    ]
    check(configs)
    assert len(configs) >= 30


def test_the_benchmark_of_few_patients_fits_its_constructors() -> None:
    configs = list(configs_of(read_sweep(str(ROOT / "benchmarks/few_patients.yaml"), [])))
    check(configs[::20])
    assert len(configs) == 60


def test_a_modality_of_ones_own_has_the_start_share_that_it_says(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    shipped = (HERE / "modality/image.yaml").read_text()
    own.write_text(shipped.replace("modality: image", "modality: own"))
    common = ["architecture=resnet", f"modality={own}", "profile=demo"]
    as_image = compose([*CELL, "modality=image"])["model"]["init_args"]["start_share"]
    assert compose(common)["model"]["init_args"]["start_share"] == as_image > 0
    own.write_text(own.read_text().replace("${study.start_shares.image}", "0.25"))
    assert compose(common)["model"]["init_args"]["start_share"] == 0.25
    assert compose([*common, "start_share=0.5"])["model"]["init_args"]["start_share"] == 0.5


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("start_share=1", r"start_share must be in \[0, 1\), got 1.0"),
        ("start_share=null", r"start_share must be in \[0, 1\), got None"),
        (
            "start_share=x",
            "start_share must fit .* takes it: Expected one of float, .* Got value: x",
        ),
        ("start_shares.imgae=0.5", "start_shares must give image and video a number"),
        ("start_shares.video=7", "start_shares must give .* got video: 7"),
        ("start_shares=0.5", "start_shares must give image and video a number .* got all: 0.5"),
        ("start_shares=[0.5,0.5]", "configuration must resolve, got: Cannot merge"),
        ("label_smoothing=1", "label_smoothing must be in"),
        ("modality_dropout=3", "modality_dropout must be in"),
        ("train_patients=2.5", "train_patients must fit .* one of int, NoneType. Got value: 2.5"),
        (
            "head.class_path=backbones.GatedFusion",
            "unimodal_loss must be below 1 where GatedFusion",
        ),
        ("unimodal_loss=1.5", r"unimodal_loss must be in \[0, 1\], got 1.5"),
        ("cache=tape", "cache must be auto, off, disk or ram, got 'tape'"),
        ("cache_gb=-1", "cache_gb must be 0 or more, got -1"),
        ("head.class_path=backbones.Foo", "head must fit .* no attribute 'Foo'"),
        ("augment.init_args.flip=0", "mirror_views must be false where training never shows"),
        ("augment=null", "mirror_views must be false where training never shows"),
        ("augment.init_args.tgcc=2", "augment must fit .* Option 'tgcc' is not accepted"),
    ],
)
def test_a_setting_that_no_run_could_take_is_refused_before_any(setting: str, says: str) -> None:
    def take() -> None:
        config = compose([*CELL, setting])
        study_of(config["study"])
        check([config])

    with pytest.raises(ConfigError, match=says) as refused:
        take()
    assert len(str(refused.value)) < 300


def test_files_win_in_order_and_the_command_line_last() -> None:
    assert compose(CELL[:2])["trainer"]["max_epochs"] == 50
    demo = yaml.safe_load((HERE / "profile/demo.yaml").read_text())["trainer"]["max_epochs"]
    assert compose(CELL)["trainer"]["max_epochs"] == demo
    assert compose([*CELL, "trainer.max_epochs=3"])["trainer"]["max_epochs"] == 3


def test_an_override_reaches_everything_made_from_it() -> None:
    config = compose([*CELL, "fold=1", "seed=7", "store=elsewhere", "num_frames=5"])
    data = config["data"]["init_args"]
    assert (data["fold"], data["seed"], data["store"]) == (1, 7, "elsewhere")
    assert data["train_sampling"]["init_args"]["num_frames"] == 5
    assert config["seed_everything"] == 7
    assert "${" not in yaml.safe_dump(config)


def test_the_fold_changes_every_path_made_from_it(store: Path) -> None:
    runs = [make_run(compose([*CELL, f"store={store}", f"fold={k}"])) for k in (0, 1, "all")]
    assert len({run.folder for run in runs}) == 3
    for run, fold in zip(runs, ("0", "1", "all"), strict=True):
        assert f"-fold{fold}-" in run.folder.name


def test_the_first_partition_has_the_ids_of_before_and_others_their_own(repeated: Path) -> None:
    base = [*CELL, f"store={repeated}", "fold=1"]
    config = compose(base)
    before = copy.deepcopy(config)
    del before["study"]["repeat"], before["data"]["init_args"]["repeat"]
    first, other = make_run(config), make_run(compose([*base, "repeat=1"]))
    assert make_run(before).run_id == first.run_id
    assert first.run_id.startswith("resnet-combined-fold1-seed0-")
    assert other.run_id.startswith("resnet-combined-fold1r1-seed0-")
    assert first.run_id[-8:] != other.run_id[-8:]
    every = [make_run(compose([*base, "fold=all", f"repeat={k}"])).run_id for k in (0, 1)]
    assert every[0] == every[1]
    with pytest.raises(DataError, match="repeat must be 0 to 1, got 2"):
        make_run(compose([*base, "repeat=2"]))


@pytest.mark.parametrize(
    ("override", "same"),
    [
        ("trainer.devices=2", True),
        ("num_threads=7", True),
        ("runs=elsewhere", True),
        ("wandb=false", True),
        ("decode=cpu", True),
        ("cache=off", True),
        ("cache=ram", True),
        ("data.init_args.cache_gb=3", True),
        ("trainer.max_epochs=99", False),
        ("seed=1", False),
        ("batch_size=4", False),
        ("encoder_lr=0.5", False),
    ],
)
def test_the_id_stands_for_what_changes_the_result(store: Path, override: str, same: bool) -> None:
    base = [*CELL, f"store={store}"]
    ids = [make_run(compose(o)).run_id for o in (base, [*base, override])]
    assert (ids[0] == ids[1]) is same


@pytest.mark.parametrize("cache", ["off", "disk", "ram"])
def test_decoding_and_caching_are_set_from_yaml(store: Path, cache: str) -> None:
    run = make_run(compose([*CELL, f"store={store}", f"cache={cache}", "decode=cpu"]))
    check([run.config])
    settings = run.config["data"]["init_args"]
    assert settings["cache"] == (cache if cache != "off" else False)  # as YAML reads it
    assert (settings["decode"], settings["cache_gb"]) == ("cpu", 50)
    with pytest.raises(ConfigError, match="cache"):
        check([make_run(compose([*CELL, f"store={store}", "cache=tape"])).config])


SAMPLINGS = {
    "UniformFrames": {},
    "TimedWindow": {"clip_seconds": 20, "start": "arrival", "lead_seconds": 2},
    "WindowGrid": {"clip_seconds": 20, "num_windows": 3},
    "PhaseFrames": {"shares": [1, 2, 2, 3], "after_seconds": 40},
    "KeyFrames": {"quantiles": [0.2, 1]},
}


def test_every_sampling_and_augmentation_is_set_from_yaml() -> None:
    varied = {"num_frames": 8, "shift_seconds": 0.5, "speed": 0.1, "jitter_seconds": 0.2}
    settings = [{"class_path": f"datamodules.{n}", "init_args": s} for n, s in SAMPLINGS.items()]
    settings += [
        {"class_path": "datamodules.TimedWindow", "init_args": {"clip_seconds": 9.5, "start": s}}
        for s in ("peak", "random", 0, 2.5)
    ]
    configs = []
    for train, evaluation in pairwise(settings):
        config = compose(CELL)
        data = config["data"]["init_args"]
        data["train_sampling"] = {**train, "init_args": {**varied, **train["init_args"]}}
        still = {"num_frames": 8, **evaluation["init_args"]}
        data["eval_sampling"] = {**evaluation, "init_args": still}
        data["augment"]["init_args"] = {"tgc": 0.1, "shadow": 0.1, "speckle": 0.1}
        configs.append(config)
    check(configs[::2] + configs[-1:])
    for key, value in (("start", "soon"), ("clip_second", 3)):
        bad = compose(CELL)
        bad["data"]["init_args"]["train_sampling"] = {
            "class_path": "datamodules.TimedWindow",
            "init_args": {"num_frames": 8, "clip_seconds": 9.0, key: value},
        }
        with pytest.raises(ConfigError, match=key):
            check([bad])


def test_pretrained_weights_count_by_content(store: Path, tmp_path: Path) -> None:
    def run_id(path: Path, content: bytes) -> str:
        path.write_bytes(content)
        encoder = "study.image_encoder.init_args.pretrained"
        return make_run(compose([*CELL, f"store={store}", f"{encoder}={path}"])).run_id

    first = run_id(tmp_path / "a.pth", b"weights")
    assert run_id(tmp_path / "b.pth", b"weights") == first
    assert run_id(tmp_path / "b.pth", b"others") != first


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["architecture=resnet"], "modality must be given"),
        ([*CELL, "architecture=vgg"], "architecture must be one of densenet, .*got 'vgg'"),
        ([*CELL, "fold"], "override must be KEY=VALUE, got 'fold'"),
        ([*CELL, "foldd=1"], "'foldd'.*Did you mean fold"),
        ([*CELL, "size=huge"], "configuration must resolve.*huge"),
        ([*CELL, "trainer.max_epochs=[1"], "override values must be YAML"),
    ],
)
def test_composition_refuses(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compose(overrides)


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["study.foldd=1"], ConfigError, "foldd"),
        (["seed=abc"], ConfigError, "seed.*abc"),
        (["batch_size=0"], ConfigError, "study.batch_size must be at least 1, .*got 0"),
        (["fold=2"], DataError, "fold must be 0 to 1 or 'all', got 2"),
        (["store=nowhere"], DataError, "store must be a folder, got none"),
        (["split=other"], DataError, "split must be one of the store's splits"),
    ],
)
def test_a_run_refuses(
    store: Path, overrides: list[str], error: type[ValueError], message: str
) -> None:
    with pytest.raises(error, match=message):
        make_run(compose([*CELL, f"store={store}", *overrides]))


def test_a_foreign_top_level_key_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"top-level keys must be of study, .*got wandb"):
        make_run({**compose(CELL), "wandb": {}})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("trainer.max_epoch", 3, "max_epoch"),
        ("trainer.max_epochs", "many", "max_epochs.*many"),
        ("model.init_args.encodr_lr", 1, "encodr_lr"),
        ("model.class_path", "lightning_modules.Nothing", "lightning_modules.Nothing"),
        ("data.init_args.batch_size", "x", "batch_size.*x"),
    ],
)
def test_constructors_refuse_what_they_do_not_know(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"(?=.*must fit).*{message}"):
        check([compose([*CELL, f"{key}={value}"])])


def test_a_file_that_is_not_yaml_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("study: [")
    with pytest.raises(ConfigError, match=r"must be a YAML file of keys, got .*bad\.yaml"):
        compose([*CELL, f"architecture={bad}"])
    bad.write_text("- a list")
    with pytest.raises(ConfigError, match="a ListConfig at its top"):
        compose([*CELL, f"architecture={bad}"])

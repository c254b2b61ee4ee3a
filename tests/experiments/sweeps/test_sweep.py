"""Expansion of a sweep, its frozen list, and what is refused."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from datamodules.errors import DataError
from datamodules.ledger import LEDGER, read_ledger
from datamodules.store.splits import load_split
from evaluation.records.listing import read_listing
from experiments.errors import ConfigError
from experiments.launchers.slots import slots
from experiments.launchers.so_far import so_far
from experiments.run_folder.lock import run_lock
from experiments.run_folder.status import Status, next_attempt, read_status, write_status
from experiments.sweeps.expand import Sweep, expand, make_data, pending
from experiments.sweeps.file import LauncherSettings, read_sweep
from experiments.sweeps.freeze import freeze

OWN = Path(__file__).parents[1] / "own"
SHIPPED = Path(__file__).parents[3] / "experiments" / "yaml" / "sweep"


@pytest.fixture
def made(store: Path, tmp_path: Path) -> Sweep:
    return sweep(store, tmp_path)


def sweep(store: Path, runs: Path, *overrides: str) -> Sweep:
    common = [f"store={store}", f"runs={runs}", "architecture=resnet", *overrides]
    return expand(read_sweep(SHIPPED / "demo.yaml", common))


def test_the_demo_is_thirty_runs_and_the_study_270(store: Path, tmp_path: Path) -> None:
    common = [f"store={store}", f"runs={tmp_path}"]
    assert len(expand(read_sweep(SHIPPED / "demo.yaml", common)).runs) == 30
    study = read_sweep(SHIPPED / "study.yaml", common)
    assert [len(values) for values in study.axes.values()] == [5, 3, 6, 3]


def test_an_axis_is_narrowed_by_the_command_line(made: Sweep) -> None:
    assert {run.study.architecture for run in made.runs} == {"resnet"}
    assert len(made.runs) == 6


def test_an_axis_is_narrowed_to_several_values(store: Path, tmp_path: Path) -> None:
    two = sweep(store, tmp_path, "modality=[video, image]", "seed=[3,4]", "fold=0")
    cells = [(run.study.modality, run.study.seed) for run in two.runs]
    assert cells == [("video", 3), ("video", 4), ("image", 3), ("image", 4)]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=[]", "axes must have a value each, got none for seed"),
        ("seed=[0", r"override values must be YAML, got \['seed=\[0'\]"),
        ("launcher.parallel=[0", "override values must be YAML, got"),
        ("seed=[0, 0]", "axes must give each run once, got seed=0 twice"),
        ("seed=[-1]", r"study\.seed must be 0 to 2\^32 - 1, got -1"),
        ("fold=[0, all]", "Set deploy=none, or leave all out"),
    ],
)
def test_values_that_no_axis_can_have_are_told(
    store: Path, tmp_path: Path, override: str, told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        sweep(store, tmp_path, override)


def test_freezing_writes_folders_and_a_cohort_without_sealed_labels(
    made: Sweep, store: Path
) -> None:
    freeze(made)
    listed = json.loads((made.folder / "sweep.json").read_text())["runs"]
    assert [entry["run_id"] for entry in listed] == [run.run_id for run in made.runs]
    assert all((run.folder / "config.yaml").is_file() for run in made.runs)
    cohort = pd.read_parquet(made.folder / "cohort.parquet")
    sealed = cohort["patient_id"].isin(load_split(store, "default").holdout)
    assert cohort.loc[sealed, "label"].isna().all()
    assert cohort.loc[~sealed, "label"].notna().all()
    design = json.loads((made.folder / "design.json").read_text())
    assert design["canvas"] == 64
    assert (design["split"]["num_folds"], design["split"]["seed"]) == (2, 0)
    for name in ("skipped.csv", "quality.csv"):
        assert (made.folder / name).read_bytes() == (store / name).read_bytes()


def test_the_same_sweep_again_changes_nothing(made: Sweep) -> None:
    freeze(made)
    names = set(made.folder.glob("*.*")) - {made.folder / ".lock"}
    before = {path: path.stat().st_mtime_ns for path in names}
    write_status(made.runs[0].folder, Status(state="done"))
    config = made.runs[0].folder / "config.yaml"
    stamp = config.stat().st_mtime_ns
    freeze(made)
    assert set(made.folder.glob("*.*")) == names | {made.folder / ".lock"}
    assert {path: path.stat().st_mtime_ns for path in names} == before
    assert config.stat().st_mtime_ns == stamp


def test_a_changed_setting_is_refused_and_shown(made: Sweep, store: Path, tmp_path: Path) -> None:
    freeze(made)
    with pytest.raises(ConfigError, match=r"trainer\.max_epochs \d+ -> 99"):
        freeze(sweep(store, tmp_path, "trainer.max_epochs=99"))


def test_new_cells_are_refused_unless_extended(made: Sweep, store: Path, tmp_path: Path) -> None:
    freeze(made)
    more = sweep(store, tmp_path, "seed=1")
    with pytest.raises(ConfigError, match=r"6 new \(first resnet-combined-0-1\); 6 missing"):
        freeze(more)
    freeze(more, extend=True)
    assert len(json.loads((made.folder / "sweep.json").read_text())["runs"]) == 12


def test_the_analysis_is_frozen_before_training(made: Sweep, store: Path, tmp_path: Path) -> None:
    freeze(made)
    frozen = json.loads((made.folder / "sweep.json").read_text())["analysis"]
    assert frozen["primary"]["modalities"] == ["combined", "image"]
    freeze(made)
    changed = sweep(store, tmp_path, "analysis.sensitivity=0.95")
    for extend in (False, True):
        with pytest.raises(ConfigError, match=r"analysis must be .* sensitivity 0.9 -> 0.95"):
            freeze(changed, extend=extend)


def test_the_question_is_frozen_with_it(made: Sweep, store: Path, tmp_path: Path) -> None:
    freeze(made)
    frozen = json.loads((made.folder / "sweep.json").read_text())["question"]
    assert frozen["positive"] == "OLNM"
    assert frozen["published"]["rows"][0]["auc"] == 0.759
    own = tmp_path / "lung.yaml"
    own.write_text("title: Which lungs are abnormal?\nnegative: regular\npositive: abnormal\n")
    with pytest.raises(ConfigError, match=r"question must be the one frozen in .* before training"):
        freeze(sweep(store, tmp_path, f"question={own}"))
    own.write_text("title: Which?\ndisease: x\n")
    with pytest.raises(ConfigError, match="disease"):
        sweep(store, tmp_path, f"question={own}")
    own.write_text("title: Which?\npositive: label 0\n")
    with pytest.raises(ConfigError, match=r"^question\.negative and .* must differ"):
        sweep(store, tmp_path, f"question={own}")


def test_a_sweep_is_entered_in_its_stores_ledger_once(store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(store, tmp_path / "store")
    made = sweep(store, tmp_path / "runs")
    before = len(read_ledger(store).entries)
    freeze(made)
    frozen = read_listing(made.folder)
    freeze(made)
    freeze(sweep(store, tmp_path / "runs", "seed=1"), extend=True)
    extended = read_listing(made.folder)
    assert len(extended.runs) == 2 * len(frozen.runs)
    assert (extended.registered, extended.analysis_sha) == (frozen.registered, frozen.analysis_sha)
    entry = read_ledger(store).entries[before:]
    assert [(e["sha"], e["analysis_sha"]) for e in entry] == [
        (frozen.registered.entry, frozen.analysis_sha)
    ]
    # A sweep of before, frozen with fewer settings and no entry, keeps what it declared.
    path = made.folder / "sweep.json"
    old = json.loads(path.read_text())
    del old["registered"], old["analysis"]["probabilities"]
    path.write_text(json.dumps(old))
    declared = read_listing(made.folder).analysis_sha
    assert declared != frozen.analysis_sha
    freeze(sweep(store, tmp_path / "runs", "seed=2"), extend=True)
    assert read_listing(made.folder).analysis_sha == declared
    assert read_listing(made.folder).registered is not None


def test_a_ledger_that_cannot_be_written_starts_no_sweep(store: Path, tmp_path: Path) -> None:
    store = shutil.copytree(store, tmp_path / "store")
    made = sweep(store, tmp_path / "runs")
    (store / LEDGER).unlink()
    (store / LEDGER).mkdir()
    with pytest.raises(DataError, match=r"entered in the store's ledger when it begins"):
        freeze(made)
    assert not (made.folder / "sweep.json").exists()


def test_a_run_keeps_the_analysis_it_first_began_with() -> None:
    first = next_attempt(Status(), started=0.0, analysis_sha="a")
    assert next_attempt(first, started=1.0, analysis_sha="b").analysis_sha == "a"
    older = next_attempt(Status(state="failed", attempts=1), started=1.0, analysis_sha="b")
    assert older.analysis_sha is None


def test_pending_are_those_neither_done_nor_held(made: Sweep) -> None:
    freeze(made)
    write_status(made.runs[0].folder, Status(state="done"))
    write_status(made.runs[1].folder, Status(state="failed", reason="why"))
    write_status(made.runs[2].folder, Status(state="running"))
    with run_lock(made.runs[3].folder) as free:
        assert free
        assert [run.run_id for run in pending(made)] == [made.runs[i].run_id for i in (1, 2, 4, 5)]
    assert len(pending(made)) == 5


def test_cells_that_are_whole_are_compared_while_the_sweep_runs(made: Sweep) -> None:
    freeze(made)
    logits = {"image": [0.0, 1.0, 2.0, 3.0], "video": [0.0, 2.0, 1.0, 3.0]}
    assert so_far(made.folder, "resnet") == ""
    for run in sorted(made.runs, key=lambda run: run.study.modality):
        if run.study.modality == "combined" and run.study.fold == 1:
            continue
        scores = logits.get(run.study.modality, [0.0] * 4)
        rows = {
            "part": ["oof"] * 4 + ["test"],
            "label": [0, 1, 0, 1, None],
            "logit": [*scores, 9.0],
        }
        pd.DataFrame(rows).to_parquet(run.folder / "predictions.parquet")
        write_status(run.folder, Status(state="done"))
        if (run.study.modality, run.study.fold) == ("image", 1):
            assert so_far(made.folder, "resnet") == "resnet so far: image 0.750 (AUC out of fold)"
    told = so_far(made.folder, "resnet")
    assert told == "resnet so far: image 0.750, video 1.000 (AUC out of fold)"
    assert so_far(made.folder, "mvit") == ""
    (made.runs[0].folder / "predictions.parquet").write_bytes(b"")
    assert so_far(made.folder, "resnet") == "resnet so far: video 1.000 (AUC out of fold)"


def test_a_damaged_status_is_named(made: Sweep) -> None:
    freeze(made)
    (made.runs[0].folder / "status.json").write_text("{")
    with pytest.raises(ConfigError, match=r"status must be readable.*status\.json"):
        read_status(made.runs[0].folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\naxes: {fold: [0, 0], architecture: [resnet], modality: [image]}", "twice"),
        ("name: x\naxes: {fold: []}", "axes must have a value each"),
        ("name: x\naxis: {fold: [0]}", "axis"),
        ("name: x\naxes: {modality: [image]}\nlauncher: {parallel: x}", "parallel"),
        (
            "name: x\naxes: {modality: [image]}\nanalysis: {primary: {modalities: [image, video]}}",
            "analysis.primary must name what the sweep runs, got modality video",
        ),
        (
            "name: x\naxes: {modality: [image]}\nanalysis: {primary: {modalities: [image, image]}}",
            "primary.modalities must be two that differ",
        ),
        ("name: x\naxes: {modality: [image]}\nanalysis: {sensitivity: 2}", "sensitivity must be"),
        (
            "name: x\naxes: {modality: [image, video], architecture: [resnet]}\n"
            "analysis: {primary: {modalities: [image, video], architecture: swin}}",
            "analysis.primary must name what the sweep runs, got architecture swin",
        ),
        (
            "name: x\naxes: {modality: [image, video], architecture: [resnet]}\n"
            "analysis: {primary: {modalities: [image, video], part: both}}",
            "part",
        ),
        (
            "name: x\naxes: {modality: [image, video], architecture: [resnet]}\n"
            "analysis: {primary: {modalities: [image, video], architecture: selected, part: oof}}",
            "analysis.primary.part must be test where primary.architecture is selected",
        ),
    ],
)
def test_sweep_files_are_checked(store: Path, tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        expand(read_sweep(path, [f"store={store}"]))


def test_a_missing_sweep_file_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"sweep must be one of demo, study or the path of a YAML file"
    ):
        read_sweep(Path("none.yaml"))


def test_data_is_made_as_the_file_says(cohort: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    file = read_sweep(SHIPPED / "demo.yaml", [f"store={store}", "data.canvas=32"])
    make_data(file, str(cohort))
    assert json.loads((store / "store.json").read_text())["canvas"] == 32
    assert len(load_split(store, "default").folds) == 2


def test_device_groups_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    assert [s.gpus for s in slots(LauncherSettings(devices_per_run=2))] == [("0", "1"), ("2", "3")]
    assert len(slots(LauncherSettings(parallel=8))) == 8
    with pytest.raises(ConfigError, match="at most the 4 GPUs found, got 5"):
        slots(LauncherSettings(devices_per_run=5))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [s.gpus for s in slots(LauncherSettings(parallel=3))] == [None] * 3
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,-1,2")
    shared = slots(LauncherSettings(runs_per_device=2))
    assert [s.gpus for s in shared] == [("0",), ("1",), ("0",), ("1",)]
    for wrong in ({"parallel": 0}, {"runs_per_device": 0}, {"devices_per_run": 0}):
        with pytest.raises(ConfigError, match=r"parallel >= 1 \(or auto\), devices_per_run >= 1"):
            LauncherSettings(**wrong)  # type: ignore[arg-type]


AXES = """
name: axes
profile: demo
axes:
  architecture: [resnet]
  modality: [image, combined]
  head: [{class_path: backbones.ConcatFusion}, {class_path: backbones.WeightedLogitFusion}]
  model.init_args.pos_weight: [1, balanced]
"""


def further(store: Path, runs: Path, content: str, *overrides: str) -> Sweep:
    path = runs / "axes.yaml"
    path.write_text(content)
    return expand(read_sweep(path, [f"store={store}", f"runs={runs}", *overrides]))


def test_further_axes_name_the_cells_in_which_they_change_something(
    store: Path, tmp_path: Path
) -> None:
    made = further(store, tmp_path, AXES)
    weights = ("pos_weight=1", "pos_weight=balanced")
    cells = [(run.study.architecture, run.study.modality) for run in made.runs]
    assert cells == [
        *((f"resnet+{weight}", "image") for weight in weights),
        *((f"resnet+head=ConcatFusion+{weight}", "combined") for weight in weights),
        *((f"resnet+head=WeightedLogitFusion+{weight}", "combined") for weight in weights),
    ]
    assert [run.config["model"]["init_args"]["pos_weight"] for run in made.runs] == 3 * [
        1,
        "balanced",
    ]
    freeze(made)
    listed = json.loads((made.folder / "sweep.json").read_text())["runs"]
    assert [(entry["architecture"], entry["modality"]) for entry in listed] == cells
    # Narrowed, a run is the one that it was among all.
    one = further(store, tmp_path, AXES, "model.init_args.pos_weight=1")
    assert [run.run_id for run in one.runs] == [made.runs[i].run_id for i in (0, 2, 4)]


def test_values_that_would_read_alike_have_names_of_their_own(store: Path, tmp_path: Path) -> None:
    content = """
name: axes
axes:
  architecture: [resnet]
  modality: [combined]
  head:
    - {class_path: backbones.ConcatFusion}
    - {class_path: backbones.ConcatFusion, init_args: {anything: 0.5}}
"""
    names = [run.study.architecture for run in further(store, tmp_path, content).runs]
    assert names[0] == "resnet+head=ConcatFusion"
    assert names[1].startswith("resnet+head=ConcatFusion~")


@pytest.mark.parametrize(
    ("axis", "message"),
    [
        ("num_threads: [1, 2]", "axes must change what a run gives, got num_threads"),
        ("model.init_args.pos_weight: [1, 1]", "got model.init_args.pos_weight=1 twice"),
        ("modl.init_args.pos_weight: [1]", "Did you mean model"),
    ],
)
def test_axes_that_cannot_be_are_refused(
    store: Path, tmp_path: Path, axis: str, message: str
) -> None:
    content = AXES[: AXES.index("  head:")] + f"  {axis}\n"
    with pytest.raises(ConfigError, match=message):
        further(store, tmp_path, content)


def test_one_part_is_confirmatory_and_is_frozen(made: Sweep, store: Path, tmp_path: Path) -> None:
    freeze(made)
    frozen = json.loads((made.folder / "sweep.json").read_text())["analysis"]["primary"]
    assert (frozen["architecture"], frozen["part"]) == ("mean", "oof")
    with pytest.raises(ConfigError, match="analysis must be the one frozen"):
        freeze(sweep(store, tmp_path, "analysis.primary.part=test"))
    chosen = sweep(
        store, tmp_path, "analysis.primary.architecture=selected", "analysis.primary.part=null"
    )
    assert chosen.analysis.primary
    assert chosen.analysis.primary.part == "test"


@pytest.mark.parametrize("by", ["tiny", str(OWN / "tiny.yaml"), "swin"])
def test_an_architecture_of_a_path_has_the_name_inside(
    store: Path, tmp_path: Path, by: str
) -> None:
    content = AXES[: AXES.index("  head:")].replace("[resnet]", f"[{OWN / 'tiny.yaml'}]")
    content += f"analysis: {{primary: {{modalities: [combined, image], architecture: '{by}'}}}}"
    if by == "swin":
        with pytest.raises(ConfigError, match="must name what the sweep runs, got architecture sw"):
            further(store, tmp_path, content)
        return
    analysis = further(store, tmp_path, content).analysis
    assert analysis.primary
    assert analysis.primary.architecture == "tiny"


@pytest.mark.parametrize("name", ["mean", "selected"])
def test_an_architecture_has_no_name_that_the_analysis_uses(
    store: Path, tmp_path: Path, name: str
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(
        (OWN / "tiny.yaml").read_text().replace("architecture: tiny", f"architecture: {name}")
    )
    content = AXES[: AXES.index("  head:")].replace("[resnet]", f"[{own}]")
    with pytest.raises(ConfigError, match="an architecture must not be called mean or selected"):
        further(store, tmp_path, content + "analysis: {primary: {modalities: [combined, image]}}")


def test_a_primary_contrast_names_its_cell_in_full(store: Path, tmp_path: Path) -> None:
    content = AXES + "analysis: {primary: {modalities: [combined, image], architecture: resnet}}"
    with pytest.raises(ConfigError, match=r"must name a cell of each modality, got 'resnet'"):
        further(store, tmp_path, content)
    named = content.replace("  head:", "  #").replace(": resnet}", ": resnet+pos_weight=1}")
    assert len(further(store, tmp_path, named).runs) == 4


@pytest.mark.parametrize("name", ["2024", "1e3", "true", "null", "0x1f", "_1"])
def test_a_name_that_yaml_would_take_for_something_else_is_a_name(
    store: Path, tmp_path: Path, name: str
) -> None:
    made = sweep(store, tmp_path, f'name="{name}"', "modality=image", "fold=0")
    assert {run.folder.parent for run in made.runs} == {tmp_path / name}


def test_no_architecture_joins_the_primary_mean_once_there_are_results(
    store: Path, tmp_path: Path
) -> None:
    some = [f"store={store}", f"runs={tmp_path}"]

    def of(*overrides: str) -> Sweep:
        return expand(read_sweep(SHIPPED / "demo.yaml", [*some, *overrides]))

    freeze(of("architecture=resnet", "modality=image"))
    freeze(of("architecture=swin", "modality=image"), extend=True)  # nothing is known yet
    first = of("architecture=resnet", "modality=image").runs[0]
    write_status(first.folder, Status(state="done"))
    listed = (tmp_path / "demo" / "sweep.json").read_text()
    with pytest.raises(ConfigError, match=r"got 1 more \(mvit image\) after 1 runs were done"):
        freeze(of("architecture=mvit", "modality=image"), extend=True)
    with pytest.raises(ConfigError, match=r"got 1 more \(mvit combined\)"):
        freeze(of("architecture=mvit", "modality=combined"), extend=True)
    assert (tmp_path / "demo" / "sweep.json").read_text() == listed
    # Of other modalities, seeds and the other side of the contrast the mean is the same.
    freeze(of("architecture=mvit", "modality=video"), extend=True)
    freeze(of("architecture=resnet", "modality=image", "seed=1"), extend=True)
    freeze(of("architecture=resnet", "modality=combined"), extend=True)
    freeze(of("architecture=swin", "modality=combined"), extend=True)


def test_what_is_added_stands_in_the_order_of_the_axes(store: Path, tmp_path: Path) -> None:
    freeze(sweep(store, tmp_path, "modality=combined"))
    freeze(sweep(store, tmp_path, "modality=image"), extend=True)
    freeze(sweep(store, tmp_path), extend=True)
    runs = read_listing(tmp_path / "demo").runs
    assert list(dict.fromkeys(run.modality for run in runs)) == ["image", "video", "combined"]

"""`prepare` as a whole: all or nothing, nothing twice, nobody's name."""

import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from datamodules.errors import DataError
from datamodules.ingest.commit import staging_folder
from datamodules.ingest.item import ingest
from datamodules.ingest.prepare import prepare
from datamodules.ingest.task import Outcome, Task
from datamodules.ingest.workers import Workers, run_all
from datamodules.ledger import enter, read_ledger
from datamodules.store.clips import ClipReader
from datamodules.store.folder import Store

# As is: the numbers drawn into these frames look like no ultrasound.
run = partial(prepare, canvas=64, as_is=True, progress=False, workers=1)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory, media: ModuleType) -> Path:
    """jane-doe.avi, b.avi (20 frames at 25 fps), c.png, d.png."""
    folder = tmp_path_factory.mktemp("sources")
    kind = media.KINDS["mjpeg-avi"]
    media.write_video(folder / "jane-doe", kind, numbers=range(20))
    media.write_video(folder / "b", kind, numbers=range(20, 40))
    for number, name in enumerate(("c.png", "d.png")):
        Image.fromarray(media.numbered_frame(number)).save(folder / name)
    return folder


def row(patient: str, path: str, **more: object) -> dict[str, object]:
    modality = "image" if path.endswith("png") else "ceus"
    return {"patient_id": patient, "label": 1, "modality": modality, "path": path} | more


@pytest.fixture
def cohort(sources: Path, write_cohort: Callable[..., Path]) -> Callable[..., Path]:
    """Writes the table beside copies of the sources, unless they are there."""

    def write(*rows: dict[str, object]) -> Path:
        path = write_cohort(rows)
        for source in sources.iterdir():
            if not (path.parent / source.name).exists():
                shutil.copy2(source, path.parent)
        return path

    return write


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Relative path -> content and time of every file."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (["1.5", "2", ""], [1.5, 2.0, None]),
        (["007", "7", "08"], ["007", "7", "08"]),
        (["3a", "2", "1"], ["3a", "2", "1"]),
        (["61", "NA", "40"], r"covariate x must be a number, .* got 'NA' \(line 3; 1 such, 2 num"),
        (
            ["12,3", "10", "9"],
            r"covariate x must be a number, with a point .* got '12,3' \(line 2;",
        ),
    ],
)
def test_a_covariate_is_all_numbers_or_text_as_it_stands(
    values: list[str], kept: Any, write_cohort: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [row(f"p{i}", f"{i}.png", x=value, label=0) for i, value in enumerate(values)]
    rng = np.random.default_rng(0)
    for i in range(len(values)):
        noise = rng.integers(0, 255, (64, 64), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{i}.png")
    table = write_cohort(rows)
    for path in tmp_path.glob("?.png"):
        shutil.copy2(path, table.parent)
    if isinstance(kept, str):
        with pytest.raises(DataError, match=kept):
            run(table, tmp_path / "store", covariates=["x"])
        return
    items = Store(run(table, tmp_path / "store", covariates=["x"])).items
    found = items.sort_values("patient_id")["x"].tolist()
    assert [None if pd.isna(value) else value for value in found] == kept


def test_tables(cohort: Callable[..., Path], tmp_path: Path) -> None:
    table = cohort(
        row("p2", "jane-doe.avi", split="test", age=61, centre="A", arrival_s=0.5),
        row("p1", "c.png", split="train", age="", centre="B", label=0),
        row("p1", "b.avi", split="train", age=40, centre="B", label=0, crop="0,0,128,48"),
    )
    store = run(table, tmp_path / "deep" / "store", covariates=["age", "centre"])
    items = Store(store).items
    assert list(items.columns) == [
        "item_id", "patient_id", "label", "modality", "frames", "fps", "seconds", "width",
        "height", "source_sha", "item_sha", "warnings", "split", "arrival_s", "peak_s",
        "arrival_confidence", "age", "centre",
    ]  # fmt: skip
    assert items["patient_id"].tolist() == ["p1", "p1", "p2"]
    assert items["modality"].tolist() == ["ceus", "image", "ceus"]
    assert items["frames"].tolist() == [20, 1, 20]
    assert items["fps"].round(3).tolist()[::2] == [25, 25]
    assert items["seconds"].round(3).tolist() == [0.8, 0, 0.8]
    assert items["label"].tolist() == [0, 0, 1]
    assert items["split"].tolist() == ["train", "train", "test"]
    assert items["age"].dropna().tolist() == [40, 61]
    assert items["arrival_s"].dropna().tolist() == [0.5]
    assert items["arrival_confidence"].tolist() == [0, 0, 1]
    assert items["warnings"].tolist() == [
        "no arrival of contrast found: clip of 0.8 s is too short to see it", "",
        "clip ends before the peak of contrast",
    ]  # fmt: skip
    quality = pd.read_csv(store / "quality.csv")
    assert quality["item_id"].tolist() == items["item_id"].tolist()
    assert quality["exact"].all()
    assert (quality["psnr"].dropna() > 30).all()
    assert quality["codec"].tolist() == ["mjpeg", "image", "mjpeg"]
    files = {path.name for path in (store / "items").iterdir()}
    assert sum(path.stat().st_size for path in (store / "items").iterdir()) == quality.bytes.sum()
    assert files == {
        item + suffix
        for item, modality in zip(items["item_id"], items["modality"], strict=True)
        for suffix in ([".png"] if modality == "image" else [".h264", ".idx"])
    }


def test_crop_is_cut_before_the_canvas(
    cohort: Callable[..., Path], tmp_path: Path, media: ModuleType
) -> None:
    table = cohort(row("p", "d.png", crop="4,8,24,32"), row("q", "b.avi", crop="64,0,64,96"))
    store = Store(run(table, tmp_path / "store"))
    image = store.image(store.items["item_id"][0])  # within the first block of number 1: white
    assert image[:, :, 8:56].min() > 200
    assert image[:, :, :8].max() == image[:, :, 56:].max() == 0
    clip = ClipReader(store).read(store.items["item_id"][1], [0])
    assert clip[0, :, :, :10].max() < 6  # bars beside an upright half


def test_no_name_in_the_store(cohort: Callable[..., Path], tmp_path: Path) -> None:
    table = cohort(
        row("p1", "jane-doe.avi", name="Jane Doe"),
        row("p2", "jane-doe.txt", name="Jane Doe", modality="ceus"),
        row("p3", "b.avi", name="x", label="jane-doe"),
    )
    (table.parent / "jane-doe.txt").write_text("jane-doe was here")
    store = run(table, tmp_path / "store", skip_bad=True)
    for name, (content, _) in snapshot(store).items():
        assert b"jane" not in content.lower() + name.lower().encode(), name
        assert str(tmp_path).encode() not in content


def test_rerun_does_only_what_is_new(cohort: Callable[..., Path], tmp_path: Path) -> None:
    store = tmp_path / "store"
    rows = [row("p1", "jane-doe.avi"), row("p2", "c.png")]
    table = cohort(*rows)
    run(table, store)
    before = snapshot(store)
    run(table, store)
    assert snapshot(store) == before  # not even the times of the files

    cohort(*rows, row("p3", "b.avi"))
    run(table, store)
    after = snapshot(store)
    assert len([name for name in after if name.startswith("items")]) == 5
    assert {name: after[name] for name in before if name.startswith("items")} == {
        name: before[name] for name in before if name.startswith("items")
    }

    cohort({**rows[0], "label": 0}, row("p3", "b.avi"))  # relabelled, and one row is gone
    run(table, store)
    items = Store(store).items.set_index("patient_id")
    assert items["label"].to_dict() == {"p1": 0, "p3": 1}
    assert not list((store / "items").glob("*.png"))
    assert len(list((store / "items").iterdir())) == 4

    os.utime(table.parent / "b.avi")  # same content, other time: hashed again, not decoded again
    run(table, store)
    assert Store(store).items.set_index("patient_id").equals(items)
    shutil.copy(table.parent / "jane-doe.avi", table.parent / "b.avi")
    with pytest.raises(DataError, match=r"file must belong to one patient.*lines 2 and 3"):
        run(table, store)
    assert Store(store).items.set_index("patient_id").equals(items)


def test_the_ledger_stays(cohort: Callable[..., Path], tmp_path: Path) -> None:
    store = run(cohort(row("p1", "c.png")), tmp_path / "store")
    entered = enter(store, "opening", ["p1"])
    run(cohort(row("p1", "c.png"), row("p2", "d.png")), store)
    ledger = read_ledger(store)
    assert ledger
    assert (ledger.head, ledger.problems) == (entered, ())


def test_lost_item_file_is_made_again(cohort: Callable[..., Path], tmp_path: Path) -> None:
    store = run(cohort(row("p1", "b.avi")), tmp_path / "store")
    (clip,) = (store / "items").glob("*.h264")
    content = clip.read_bytes()
    clip.unlink()
    run(tmp_path / "cohort" / "cohort.csv", store)
    assert clip.read_bytes() == content


BAD = [
    (row("q1", "none.avi"), "file must exist"),
    (row("q2", "text.mp4"), "file must be a whole video"),
    (row("q3", "cut.avi"), "got one cut off"),
    (row("q4", "c.png", modality="ceus"), "file must be a whole video"),
    (row("q5", "jane-doe.avi", modality="image"), "file must be a whole picture"),
    (row("q6", "d.png", crop="100,0,40,10"), "crop must lie in the 128×96 frame"),
    (row("q7", "b.avi", crop="0,0,128,97"), "crop must lie in the 128×96 frame"),
    (row("q8", "late.avi", arrival_s=3), "arrival_s must lie in the clip of 0.80 s, got 3.0"),
    (row("q9", "../x.avi"), "path must lie in the cohort's folder"),
]


def test_every_bad_row_is_listed_and_nothing_written(
    cohort: Callable[..., Path], tmp_path: Path, sources: Path
) -> None:
    store = tmp_path / "store"
    table = cohort(*(bad for bad, _ in BAD), row("p1", "good.avi"))
    folder = table.parent
    (folder / "text.mp4").write_text("no video " * 99)
    data = (sources / "b.avi").read_bytes()
    (folder / "cut.avi").write_bytes(data[: len(data) // 2])
    for name in ("late.avi", "good.avi"):
        shutil.copy(sources / "b.avi", folder / name)
    # The three copies of b.avi differ, else they would be one examination of several patients.
    for name, extra in (("late.avi", b"JUNK\1\0\0\0a\0"), ("good.avi", b"JUNK\1\0\0\0b\0")):
        with (folder / name).open("ab") as file:
            file.write(extra)
    files = sorted(tmp_path.rglob("*"))

    with pytest.raises(DataError, match=r"got 9 bad of 10") as raised:
        run(table, store, workers=2)

    lines = str(raised.value).splitlines()
    for line, (bad, reason) in enumerate(BAD, start=2):
        (shown,) = [text for text in lines if text.startswith(f"  line {line}: ")]
        assert f"{bad['path']}: " in shown
        assert reason in shown
    assert "patients with no item left: q1, q2, q3, q4, q5, q6, q7, q8, q9" in str(raised.value)
    assert "--skip-bad" in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == files


def test_skip_bad_says_so(
    cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = cohort(row("p1", "b.avi"), row("p2", "none.avi"), row("p1", "none.png", label=0))
    store = run(table, tmp_path / "store", skip_bad=True)
    shown = capsys.readouterr().err
    assert "1 items of 1 patients, 1 of them new" in shown
    assert "1 of 1 clips show no arrival of contrast; quality.csv says why" in shown
    assert "2 rows left out" in shown
    assert "line 3: none.avi: file must exist" in shown
    assert "patients with no item left: p2" in shown
    skipped = pd.read_csv(store / "skipped.csv")
    assert skipped.drop(columns="lost_patient").to_dict("list") == {
        "line": [3, 4],
        "reason": ["file must exist"] * 2,
        "modality": ["ceus", "image"],
    }
    assert skipped["lost_patient"].fillna(0).tolist() == [1, 0]


def test_nothing_usable(cohort: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cohort must have usable rows, got none"):
        run(cohort(row("p1", "none.avi")), tmp_path / "store", skip_bad=True)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("canvas", [0, 100, 2048])
def test_canvas(tmp_path: Path, canvas: int) -> None:
    with pytest.raises(DataError, match=rf"canvas must be a multiple of 16 .* got {canvas}"):
        prepare(tmp_path / "cohort.csv", tmp_path / "store", canvas=canvas)


def test_workers(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"workers must be >= 1, got 0"):
        prepare(tmp_path / "cohort.csv", tmp_path / "store", workers=0)


def test_other_canvas_and_other_folder(cohort: Callable[..., Path], tmp_path: Path) -> None:
    table = cohort(row("p1", "c.png"))
    store = run(table, tmp_path / "store")
    with pytest.raises(DataError, match=r"canvas must be 64 as in the store there is, got 128"):
        run(table, store, canvas=128)
    with pytest.raises(DataError, match=r"store must hold a store.json"):
        run(table, table.parent)
    (tmp_path / "empty").mkdir()
    assert Store(run(table, tmp_path / "empty")).labels == {"p1": 1}


def test_one_call_at_a_time(cohort: Callable[..., Path], tmp_path: Path) -> None:
    table = cohort(row("p1", "c.png"))
    with (
        staging_folder(tmp_path / "store"),
        pytest.raises(DataError, match=r"store must be written by one call at a time"),
    ):
        run(table, tmp_path / "store")
    run(table, tmp_path / "store")


@pytest.mark.parametrize(
    "deed", ["import faulthandler; faulthandler._sigsegv()", "import time; time.sleep(1000)"]
)
def test_a_decoder_that_crashes_or_hangs_costs_one_row(
    sources: Path, tmp_path: Path, deed: str
) -> None:
    """A file that ends its worker, or never comes back, among good ones."""

    def task(line: int, path: object) -> Task:
        return Task(
            line,
            path,
            "p",
            "ceus",
            None,
            64,
            tmp_path,
            frozenset(),
            stall_seconds=3.0,  # type: ignore[arg-type]
        )

    script = tmp_path / "deed.py"
    script.write_text(deed)
    bad = SimpleNamespace(
        name="bad",
        is_dir=partial(bool),
        open=partial(runpy.run_path, str(script), None),
        stat=partial(os.stat, "/"),
    )
    tasks = [task(2, sources / "b.avi"), task(3, bad), task(4, sources / "jane-doe.avi")]
    with Workers(2) as pool:
        outcomes = {out.line: out for out in run_all(ingest, tasks, pool, label="")}
    reason = "file must decode, got a crash or a standstill of the decoder"
    assert outcomes[3] == Outcome(3, reason=reason)
    assert [outcomes[line].facts["frames"] for line in (2, 4)] == [20, 20]


def test_killed_call_leaves_the_old_store(
    cohort: Callable[..., Path], tmp_path: Path, media: ModuleType
) -> None:
    store = tmp_path / "store"
    table = cohort(row("p1", "jane-doe.avi"))
    run(table, store)
    before = snapshot(store)
    for number in range(5):
        media.write_video(
            table.parent / f"long{number}", media.KINDS["mjpeg-avi"], numbers=[number, *range(150)]
        )
    cohort(row("p1", "jane-doe.avi"), *(row(f"q{n}", f"long{n}.avi") for n in range(5)))
    code = (
        "import sys; from pathlib import Path; from datamodules.ingest.prepare import prepare\n"
        "if __name__ == '__main__':\n"
        "    prepare(Path(sys.argv[1]), Path(sys.argv[2]), canvas=64, progress=False, workers=1)"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    call = subprocess.Popen([sys.executable, script, table, store])
    staging, deadline = tmp_path / ".store.preparing", time.monotonic() + 60
    while not list(staging.glob("*.h264")) and time.monotonic() < deadline:
        time.sleep(0.01)
    call.send_signal(signal.SIGKILL)
    call.wait()
    assert list(staging.glob("*.h264")), "the call was not killed amid its work"
    assert snapshot(store) == before

    run(table, store)
    assert len(Store(store).items) == 6
    assert not staging.exists()


def test_what_a_killed_call_had_finished_is_not_decoded_again(
    cohort: Callable[..., Path], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    table = cohort(row("p1", "jane-doe.avi"), row("p2", "c.png"))
    staging = tmp_path / ".store.preparing"
    staging.mkdir()
    files = {"ceus": table.parent / "jane-doe.avi", "image": table.parent / "c.png"}
    done = [
        ingest(Task(line, path, f"p{line}", modality, None, 64, staging, frozenset(), as_is=True))
        for line, (modality, path) in enumerate(files.items(), start=1)
    ]
    lost = done[1].item_id  # its picture, but not its facts, had been written
    (staging / f"{lost}.json").unlink()
    (staging / "7-half.h264").write_bytes(b"half a clip")
    (staging / f"{done[0].item_id}.h264").touch()
    written = (staging / f"{done[0].item_id}.h264").stat().st_mtime_ns
    run(table, store)
    assert (store / "items" / f"{done[0].item_id}.h264").stat().st_mtime_ns == written
    assert set(Store(store).items["item_id"]) == {outcome.item_id for outcome in done}
    assert not staging.exists()


def test_a_truncated_clip_is_named_before_the_others_are_decoded(
    cohort: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = cohort(row("p1", "jane-doe.avi"), row("p2", "cut.avi"))
    data = (table.parent / "b.avi").read_bytes()
    (table.parent / "cut.avi").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"line 3: cut.avi: file must be whole, got one cut off"):
        run(table, tmp_path / "store", progress=True)
    shown = capsys.readouterr().err
    assert "inspect" in shown
    assert "prepare" not in shown


def test_shared_memory_that_cannot_be_written_is_named(
    cohort: Callable[..., Path], tmp_path: Path
) -> None:
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting needs the rights of root")
    table = cohort(row("p1", "jane-doe.avi"))
    script = (
        "mount -t tmpfs -o ro,size=1k tmpfs /dev/shm && "
        '"$1" -P -m experiments prepare "$2" "$3" --canvas 64'
    )
    told = subprocess.run(
        ["unshare", "-m", "bash", "-c", script, "-", sys.executable, table, tmp_path / "store"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 2, told.stderr
    assert "error: shared memory (/dev/shm) must be writable" in told.stderr
    assert "Read-only file system" in told.stderr
    assert not (tmp_path / "store").exists()


def test_starts_without_torch() -> None:
    code = "import sys, datamodules.ingest.prepare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

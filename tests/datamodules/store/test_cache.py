"""The cache of decoded frames: the same frames, once a machine, bounded, never stale."""

import os
import shutil
import signal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batches.augment import resize
from datamodules.errors import DataError
from datamodules.ingest.prepare import prepare
from datamodules.store.cache import FrameCache, open_cache
from datamodules.store.clips import ClipReader
from datamodules.store.decode import PyavCpu
from datamodules.store.fill import fill_cache
from datamodules.store.folder import Store
from experiments.processes import warm_server

FRAMES, SIZE = 30, 48


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, media: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("cached")
    lines = ["patient_id,label,modality,path"]
    for i in range(3):
        kind = media.KINDS["h264-mp4"]
        file = media.write_video(folder / f"{i}", kind, numbers=range(i, i + FRAMES))
        lines.append(f"p{i},{i % 2},ceus,{file.name}")
    (folder / "cohort.csv").write_text("\n".join(lines))
    return prepare(
        folder / "cohort.csv", folder / "store", canvas=64, as_is=True, progress=False, workers=1
    )


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Store:
    return Store(Path(shutil.copytree(made, tmp_path / "store")))


class Counting(PyavCpu):
    """The real decoder, telling how many frames it was asked for."""

    decoded = 0

    def decode(self, packets: Any, **settings: Any) -> torch.Tensor:
        self.decoded += len(packets)
        return super().decode(packets, **settings)


def cached(store: Store, **changes: Any) -> tuple[ClipReader, Counting, FrameCache]:
    settings: dict[str, Any] = {"where": "disk", "size": SIZE, "limit_gb": 1.0}
    cache, decoder = FrameCache(store, **settings | changes), Counting()
    return ClipReader(store, decoder=decoder, cache=cache), decoder, cache


@pytest.mark.parametrize("where", ["disk", "ram"])
@pytest.mark.parametrize("size", [SIZE, 64, 80], ids=["smaller", "as-stored", "larger"])
def test_frames_are_those_that_are_decoded_and_resized(store: Store, where: str, size: int) -> None:
    reader, decoder, cache = cached(store, where=where, size=size)
    a, b = store.items["item_id"][:2]
    requests = [(a, [3, 1, 3]), (b, range(7)), (a, [1, 29])]
    plain = resize(ClipReader(store).read_many(requests)[None], size)[0].transpose(0, 1)
    for _ in range(2):
        frames = reader.read_many(requests)
        assert frames.shape == (12, 3, size, size)
        assert torch.equal(frames.float(), plain)
    assert decoder.decoded == 10  # each frame once, although asked for twice
    again, decoder, other = cached(store, where=where, size=size)
    assert torch.equal(again.read_many(requests), frames)
    assert decoder.decoded == 0
    cache.close()
    other.close()
    assert cache.path.exists() == (where == "disk")


def _read_all(path: Path, start: int, out: Any) -> None:
    reader, decoder, _ = cached(Store(path))
    items = list(reader._store.items["item_id"])
    order = np.random.default_rng(start).permutation(FRAMES)
    total = sum(int(reader.read(item, [i]).sum()) for i in order for item in items)
    out.put((total, decoder.decoded))


def test_processes_share_one_copy(store: Store) -> None:
    context = warm_server()
    out = context.Queue()
    children = [context.Process(target=_read_all, args=(store.path, i, out)) for i in range(2)]
    for child in children:
        child.start()
    (one, first), (other, second) = out.get(timeout=120), out.get(timeout=120)
    for child in children:
        child.join(60)
    items = list(store.items["item_id"])
    reader, decoder, _ = cached(store)
    frames = reader.read_many([(item, range(FRAMES)) for item in items])
    assert decoder.decoded == 0
    assert one == other == int(frames.sum())
    assert first + second >= 3 * FRAMES  # frames that both lacked at once are decoded by both


def _fill_and_die(path: Path) -> None:
    reader, _, _ = cached(Store(path), where="ram")
    reader.read(reader._store.items["item_id"][0], range(10))
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_used_and_goes(store: Store) -> None:
    child = warm_server().Process(target=_fill_and_die, args=(store.path,))
    child.start()
    child.join(120)
    reader, decoder, cache = cached(store, where="ram")
    reader.read(store.items["item_id"][0], range(10))
    assert decoder.decoded == 0
    cache.close()
    assert not cache.path.exists()


def test_damaged_frames_are_decoded_again(store: Store) -> None:
    item = store.items["item_id"][0]
    reader, _, cache = cached(store)
    frames = reader.read(item, range(FRAMES)).clone()
    data = bytearray((cache.path / "frames").read_bytes())
    place = data.index(frames[5].permute(1, 2, 0).contiguous().numpy().tobytes())
    data[place + 1000] ^= 1
    (cache.path / "frames").write_bytes(data[: -SIZE * SIZE])  # and the last one is cut off
    again, decoder, _ = cached(store)
    assert torch.equal(again.read(item, range(FRAMES)), frames)
    assert decoder.decoded in {1, 2}  # the clip may not be the last in the file
    again.read(item, range(FRAMES))
    assert decoder.decoded in {1, 2}


def test_a_changed_store_has_a_new_cache(store: Store) -> None:
    reader, _, cache = cached(store)
    item = store.items["item_id"][0]
    reader.read(item, range(5))
    other_size = cached(store, size=32)[2]
    table = store.items.assign(item_sha="of other bytes")
    table.to_parquet(store.path / "cohort.parquet")
    _, _, in_use = cached(Store(store.path))
    assert cache.path.exists()  # somebody reads it
    cache.close()
    in_use.close()
    reader, decoder, new = cached(Store(store.path))
    reader.read(item, range(5))
    assert decoder.decoded == 5
    assert {path.name for path in new.path.parent.iterdir()} == {
        new.path.name, other_size.path.name
    }  # fmt: skip


@pytest.mark.parametrize(("clips", "kept"), [(0, 0), (1.5, 1), (2, 2), (3, 3)])
def test_it_is_bounded_and_says_so(
    store: Store, caplog: pytest.LogCaptureFixture, clips: float, kept: int
) -> None:
    limit = clips * FRAMES * SIZE * SIZE * 3 / 1e9
    reader, decoder, cache = cached(store, limit_gb=limit)
    items = list(store.items["item_id"])
    for _ in range(2):
        reader.read_many([(item, range(FRAMES)) for item in items])
    assert decoder.decoded == FRAMES * (3 + 3 - kept)
    assert sum(map(cache.holds, items)) == kept
    used = (cache.path / "frames").stat().st_blocks * 512
    assert used <= limit * 1e9 + 4096 * kept
    messages = [record.getMessage() for record in caplog.records]
    if kept == 3:
        assert not messages
    else:
        assert f"cache: {kept} of 3 clips fit into" in messages[0]
        assert "cache_gb; all need" in messages[0]


def test_a_full_disk_costs_the_cache_only(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    reader, decoder, cache = cached(store)
    os.close(cache._frames)
    cache._frames = os.open("/dev/full", os.O_RDWR)  # a real device that is always full
    item = store.items["item_id"][0]
    expected = ClipReader(store).read(item, range(4))
    small = resize(expected[None], SIZE)[0].transpose(0, 1)
    for _ in range(2):
        assert torch.equal(reader.read(item, range(4)).float(), small)
    assert decoder.decoded == 8
    (record,) = caplog.records
    assert "No space left on device" in record.getMessage()
    assert "make room, or set cache=off" in record.getMessage()


def test_filled_at_prepare(store: Store) -> None:
    path = fill_cache(store.path, size=SIZE, limit_gb=1.0, threads=2)
    reader, decoder, cache = cached(store)
    assert cache.path == path
    for item in store.items["item_id"]:
        reader.read(item, range(FRAMES))
    assert decoder.decoded == 0
    with pytest.raises(DataError, match=r"size of the cache must be 1 or more, got 0"):
        fill_cache(store.path, size=0, limit_gb=1.0)


def test_a_place_that_cannot_be_written_is_refused(store: Store) -> None:
    (store.path / "cache").write_text("not a folder")
    with pytest.raises(DataError, match=r"cache must be writable, got .*cache=ram or cache=off"):
        open_cache(store, cache="disk", size=SIZE, limit_gb=1.0)
    assert open_cache(store, cache="off", size=SIZE, limit_gb=1.0) is None


@pytest.mark.parametrize(
    ("blocked", "limit_gb", "where", "told"),
    [
        (False, 1.0, "disk", "of decoded frames on disk"),
        (True, 1.0, "ram", "of decoded frames on ram"),
        (False, 1e-4, None, "cache: off, decoded frames need 0.00062 GB of at most"),
    ],
    ids=["room", "disk cannot be written", "too large"],
)
def test_auto_takes_the_first_place_with_room_for_all_and_says_so(
    store: Store,
    caplog: pytest.LogCaptureFixture,
    *,
    blocked: bool,
    limit_gb: float,
    where: str | None,
    told: str,
) -> None:
    if blocked:
        (store.path / "cache").write_bytes(b"")
    with caplog.at_level("INFO", "datamodules"):
        cache = open_cache(store, cache="auto", size=SIZE, limit_gb=limit_gb)
    places = {None: None, "disk": store.path / "cache", "ram": Path("/dev/shm")}
    assert (cache.path.parent if cache else None) == places[where]
    assert told in caplog.text
    if cache:
        cache.close()

"""What the three datamodules share: everything but the settings of their inputs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch

from datamodules.batches.augment import Augment
from datamodules.batches.device import DeviceStage
from datamodules.batches.finish import finish
from datamodules.batches.inputs import (
    MODALITY,
    Input,
    evaluation_windows,
    find_items,
    patients_of,
    read_times,
)
from datamodules.batches.loader import Batch, IntArray, RowLoader
from datamodules.batches.plan import (
    ClassSampling,
    balanced_repeats,
    evaluation_batches,
    patient_weights,
    stratified_order,
    training_batches,
)
from datamodules.batches.read import BatchReader
from datamodules.batches.rows import Row, evaluation_rows, training_rows
from datamodules.batches.sampling import ClipTimes, FrameSampling, Window
from datamodules.cores import cores
from datamodules.errors import DataError
from datamodules.store.cache import Cache, FrameCache, open_cache
from datamodules.store.clips import ClipReader
from datamodules.store.deal import require_number, stratified_share
from datamodules.store.decode import Decode, choose_decoder
from datamodules.store.folder import Store
from datamodules.store.splits import load_split

Selection = Literal["last", "ema", "inner_bce", "refit"]
"""How the end of training is chosen, see docs/design.md, Recipe."""

_MOST_THREADS = 16  # each holds a batch in pinned memory


class PatientDataModule(L.LightningDataModule):
    """Base of the datamodules: parts, rows, batches, and the work on the device.

    A subclass names its inputs. Training rows: each patient has as many as it has images or clips,
    whichever are more, paired anew every epoch. Evaluation rows: every image with every window of
    every clip. A patient without any of the inputs is left out. Labels of the hold-out (part
    `test`) are NaN; they are not looked up.

    A batch (docs/design.md, Batch) has `row_key`, unique in a part: a process without a row of its
    own at evaluation repeats one, and who gathers drops it by this key. A training batch has
    `loss_weight (B,)` float32: a step's loss is the mean over its rows and processes of loss ×
    weight. By it patients count alike over an epoch, however many rows they have.

    Args:
        store: A prepared store.
        split: Name of a split of this store.
        fold: Number of the fold, from 0, or `all`; with `twins` also `none`: of the patients
            without a label only.
        repeat: Which of the split's partitions the fold is of, from 0.
        seed: Seed of order, windows and augmentation, 0 or more.
        batch_size: Training rows per batch and process.
        eval_batch_size: Evaluation rows per batch and process; `batch_size` if not given.
        num_threads: Threads that read ahead, each a batch; 0 reads when a batch is asked for.
            `auto` is all cores of this process but one, 16 at most, where batches go to a GPU, and
            2 where the cores that read also train.
        twins: Whether this is for pretraining: every training row comes twice in its batch, one
            after the other, each with chance of its own; patients without a label take part, and
            no label is looked at.
        selection: How the end of training is chosen. Only with `inner_bce` do the patients of inner
            validation choose an epoch; else they are trained on, too.
        train_patients: How many of the training patients are trained on, in the proportion of
            their labels, drawn by `seed`: for learning curves. All if not given.
        class_sampling: How the classes of training rows meet, see
            `datamodules.batches.plan.ClassSampling`.
        augment: Changes to training rows on the device; none if not given.
        decode: What decodes clips: `auto`, `cpu`, `decord` or `cuda`, see
            `datamodules.store.decode.choose_decoder`. With a cache it is on the CPU.
        cache: Where decoded frames are kept at the size of the video input: `off`, `disk` (in
            the store's folder), `ram`, or `auto`, see `datamodules.store.cache.open_cache`. With
            `decode: cuda` `auto` is `off`.
        cache_gb: Most that the cache may take, in 10^9 bytes, 0 or more.

    Raises:
        DataError: If a setting is out of range; from `setup` if the store, the split or the
            fold do not exist or do not fit, a part has no rows, training lacks a class, or the
            sampling of evaluation varies in time.
    """

    inputs: dict[str, Input]
    """`image` and `video`, in this order, or one of them."""
    train_sampling: FrameSampling
    """Frames in training; one of its windows per row. Set where there is a video input."""
    eval_sampling: FrameSampling
    """Frames in evaluation; every window is a row. Set where there is a video input."""

    def __init__(
        self,
        *,
        store: Path,
        split: str,
        fold: int | Literal["all", "none"],
        repeat: int = 0,
        seed: int = 0,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_threads: int | Literal["auto"] = "auto",
        twins: bool = False,
        selection: Selection = "inner_bce",
        train_patients: int | None = None,
        class_sampling: ClassSampling = "stratified",
        augment: Augment | None = None,
        decode: Decode = "auto",
        cache: Cache = "off",
        cache_gb: float = 50.0,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        for name, value, least in (
            ("seed", seed, 0),
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_threads", 0 if num_threads == "auto" else num_threads, 0),
            ("cache_gb", cache_gb, 0),
        ):
            if value < least:
                raise DataError(f"{name} must be {least} or more, got {value!r}.")
        self._path, self._split, self._fold, self._repeat = Path(store), split, fold, repeat
        self._seed, self._num_threads, self._augment = seed, num_threads, augment
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._class_sampling, self._selection = class_sampling, selection
        self._train_patients = train_patients
        self._predicted: Sequence[Row] | None = None
        self._twins = twins
        if twins and train_patients is not None:
            raise DataError("train_patients must be left out in pretraining, which takes everyone.")
        if fold == "none" and not twins:
            raise DataError("fold must be a number or all, got none. Only pretraining has none.")
        if decode == "cuda" and cache in {"disk", "ram"}:
            raise DataError(
                f"decode must be auto or cpu with a cache, got {decode!r} (cache={cache}). "
                "A cache keeps what the CPU decodes: set cache=off to decode on the GPU."
            )
        self._decode, self._cache_where, self._cache_gb = decode, cache, cache_gb
        self._cache: FrameCache | None = None
        self._parts: dict[str, tuple[str, ...]] = {}
        self._times: dict[str, ClipTimes] = {}

    def setup(self, stage: str = "") -> None:
        """Read store and split and check them, once; the stage makes no difference."""
        del stage
        if self._parts:
            return
        self._store = Store(self._path, with_unlabelled=self._twins)
        table = self._store.items
        listed: dict[str, Sequence[str]] = {}
        if self._fold != "none":
            split = load_split(self._path, self._split)
            listed = dict(split.parts(self._fold, self._repeat))
        if self._twins:
            kept = {p for part in ("train", "inner_val") for p in listed.get(part, ())}
            kept |= set(table[table["label"].isna()]["patient_id"])
            listed = {"train": sorted(kept)}
        self._items = find_items(self._store, self.inputs)
        where = f"fold {self._fold} of split {self._split!r}, {self._path}"
        modalities = " or ".join(MODALITY[key] for key in self.inputs)
        parts = {}
        for part, patients in listed.items():
            parts[part] = tuple(
                p for p in patients if any(p in ids for ids in self._items.values())
            )
            if not parts[part]:
                raise DataError(
                    f"part {part!r} must have patients with {modalities}, got none among its "
                    f"{len(patients)} ({where}). Use another modality or split, or add items."
                )
        labels = self._store.labels
        seen = {p for part in parts if part != "test" for p in parts[part]}
        self._labels = {} if self._twins else {p: labels[p] for p in seen}
        lacking = {0, 1} - {self._labels[p] for p in parts["train"] if not self._twins}
        if lacking and not self._twins:
            raise DataError(
                f"training patients must be of both labels, got none of label {lacking.pop()} "
                f"among {len(parts['train'])} with {modalities} ({where}). "
                "Use fewer folds, or add patients."
            )
        self._open_clips()
        self._parts = parts

    def take_own(self, store: Path) -> None:
        """Read its own store, which was moved, anew."""
        self._path, self._parts = Path(store), {}
        self.setup()

    def take_new(self, store: Path) -> None:
        """Read another store in the place of its own: all its patients are one part, `new`.

        There is no split, and no label is looked at.

        Args:
            store: A prepared store.

        Raises:
            DataError: If no patient has any of the inputs, or as from `setup`.
        """
        self._path = Path(store)
        self._store = Store(self._path, with_unlabelled=True)
        self._items = find_items(self._store, self.inputs)
        patients = patients_of(self._store, self._items)
        self._labels = {}
        self._open_clips()
        self._parts = {"new": patients}

    def _open_clips(self) -> None:
        self._open_reader()
        if "video" not in self.inputs:
            return
        if self.eval_sampling.varies:
            raise DataError(
                f"eval_sampling must not vary in time, got {self.eval_sampling!r}. "
                "Set shift_seconds, speed and jitter_seconds to 0 there."
            )
        clips = [clip for ids in self._items["video"].values() for clip in ids]
        self._times = read_times(self._store, self._reader.index, clips)

    def teardown(self, stage: str) -> None:
        """Give the cache up after the last use of a run; a cache in memory goes with it."""
        if stage == "predict" and self._cache and self._predicted is None:
            self._cache.close()
            self._cache, self._parts = None, {}

    @property
    def predict_parts(self) -> list[str]:
        """Parts in the order of `predict_dataloader`; fold `all` has no `oof`."""
        self.setup()
        return list(self._parts)

    @property
    def store(self) -> Store:
        """The store that rows are read from."""
        self.setup()
        return self._store

    def label_of(self, patient: str) -> float:
        """0 or 1; NaN for a patient of the hold-out, whose label is not looked up."""
        return float(self._labels.get(patient, math.nan))

    def patients(self, part: str) -> tuple[str, ...]:
        """Patients of a part that have an input: those that predictions must cover exactly."""
        self.setup()
        return self._parts[part]

    def train_label_counts(self) -> tuple[int, int]:
        """Number of negative and of positive training patients, for the loss counts patients."""
        labels = [self._labels[patient] for patient in self.training_patients]
        return labels.count(0), labels.count(1)

    @property
    def positive_oversampling(self) -> float:
        """Odds of a positive in an epoch over those among the patients there are.

        Training on repeated positives shifts logits by its logarithm, as weighting them does.
        """
        if self._class_sampling != "balanced":
            return 1.0
        negatives, positives = self.train_label_counts()
        return negatives / positives

    def train_dataloader(self) -> RowLoader:
        """Shuffled training rows, this process's share of them."""
        return self._loader(self._training_plan, training=True)

    def val_dataloader(self) -> RowLoader:
        """Inner validation, this process's share, in order."""
        return self._evaluation_loader("inner_val")

    def read_finished(self, rows: Sequence[Row]) -> Batch:
        """A batch of rows of evaluation as the encoders get it, on the CPU."""
        self.setup()
        return finish(self._batch_reader(training=False).read(rows, 0), self.inputs, None)

    @property
    def seed(self) -> int:
        """What chance is drawn from."""
        return self._seed

    @property
    def times(self) -> Mapping[str, ClipTimes]:
        """Curve, rate, arrival and peak by clip."""
        self.setup()
        return self._times

    @property
    def training_patients(self) -> tuple[str, ...]:
        """Patients trained on; those of inner validation too, unless they choose an epoch."""
        everyone = self.patients("train")
        if self._selection != "inner_bce" and not self._twins:
            everyone += self.patients("inner_val")
        if self._train_patients is None:
            return everyone
        where = f"fold {self._fold} of split {self._split!r}"
        require_number(self._train_patients, len(everyone), where=where)
        share = self._train_patients / len(everyone)
        drawn = stratified_share(everyone, self._labels, share, seed=(self._seed, 2))
        return tuple(sorted(drawn))

    def evaluation_rows(self, patients: Sequence[str]) -> list[Row]:
        """Every image with every window of every clip, as these patients are scored."""
        self.setup()
        return evaluation_rows(patients, self._items, self._evaluation_windows)

    def item_rows(self, key: str) -> list[Row]:
        """Every image, or every window of every clip, by itself, the same whatever the fold.

        Args:
            key: The input, `image` or `video`.
        """
        self.setup()
        patients = sorted(p for part in self._parts.values() for p in part if p in self._items[key])
        return evaluation_rows(patients, {key: self._items[key]}, self._evaluation_windows)

    @contextmanager
    def predicting(self, rows: Sequence[Row]) -> Iterator[None]:
        """Meanwhile `predict_dataloader` gives these rows, of one input or of all."""
        self._predicted = rows
        try:
            yield
        finally:
            self._predicted = None

    def predict_dataloader(self) -> list[RowLoader]:
        """Every part of `predict_parts`, as at evaluation: no augmentation, all windows."""
        if self._predicted is not None:
            return [self._evaluation_loader_of(self._predicted)]
        return [self._evaluation_loader(part) for part in self.predict_parts]

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Move the tensors; Lightning's own looks into every name that goes along."""
        del dataloader_idx
        beside = device.type == "cuda"
        return {
            key: value.to(device, non_blocking=beside) if isinstance(value, torch.Tensor) else value
            for key, value in batch.items()
        }

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Resize, augment and normalise on the device."""
        del dataloader_idx
        return finish(batch, self.inputs, self._augment)

    def _training_rows(self, *, epoch: int) -> list[Row]:
        rng = np.random.default_rng((self._seed, epoch, 0, 1))
        return training_rows(self.training_patients, self._items, rng)

    def _row_labels(self, rows: Sequence[Row]) -> IntArray:
        return np.array([self._labels[row.patient_id] for row in rows], dtype=np.int64)

    def _training_plan(self, epoch: int, *, rank: int, world: int) -> list[list[Row]]:
        rows = self._training_rows(epoch=epoch)
        rng = np.random.default_rng((self._seed, epoch, 0))
        if self._twins:
            return self._twin_plan(rows, rng.permutation(len(rows)), rank=rank, world=world)
        labels = self._row_labels(rows)
        if self._class_sampling == "balanced":
            repeats = balanced_repeats(labels, rng)
            # Chance depends on the index: a row shown again is cut and augmented anew.
            rows += [replace(rows[i], index=len(rows) + k) for k, i in enumerate(repeats)]
            labels = np.concatenate([labels, labels[repeats]])
        weights = patient_weights(
            [row.patient_id for row in rows], labels, balanced=self._class_sampling == "balanced"
        )
        if self._class_sampling == "plain":
            order = rng.permutation(len(rows))
        else:
            order = stratified_order(labels, step=self._batch_size * world, rng=rng)
        shares = training_batches(order, batch_size=self._batch_size, rank=rank, world=world)
        return [
            [
                replace(rows[i], loss_weight=float(weights[i] * w))
                for i, w in zip(*share, strict=True)
            ]
            for share in shares
        ]

    def _twin_plan(
        self, rows: Sequence[Row], order: IntArray, *, rank: int, world: int
    ) -> list[list[Row]]:
        pairs = max(1, self._batch_size // 2)
        shares = training_batches(order, batch_size=pairs, rank=rank, world=world)
        return [
            [replace(rows[i], index=2 * int(i) + twin) for i in share for twin in (0, 1)]
            for share, _ in shares
        ]

    def _evaluation_loader(self, part: str) -> RowLoader:
        return self._evaluation_loader_of(self.evaluation_rows(self.patients(part)))

    def _evaluation_loader_of(self, rows: Sequence[Row]) -> RowLoader:
        def plan(_: int, *, rank: int, world: int) -> list[list[Row]]:
            size = self._eval_batch_size
            batches = evaluation_batches(len(rows), batch_size=size, rank=rank, world=world)
            return [[rows[i] for i in batch] for batch in batches]

        return self._loader(plan, training=False)

    def _loader(self, plan: Any, *, training: bool) -> RowLoader:
        self.setup()
        rank, world = (
            (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        )
        # On a CPU the threads that read finish batches, too: beside the step, not before it.
        on_cpu = self.trainer is not None and self._device.type == "cpu"
        reader = self._batch_reader(training=training)

        done = partial(finish, inputs=self.inputs, augment=self._augment)

        def read_finished(rows: Sequence[Row], epoch: int) -> Batch:
            return done(reader.read(rows, epoch))

        return RowLoader(
            plan=partial(plan, rank=rank, world=world),
            read=read_finished if on_cpu else reader.read,
            num_threads=min(self._threads, self._reader.max_threads),
            stage=DeviceStage(self._device, done) if self._device.type == "cuda" else None,
            epochs=training,
        )

    def _batch_reader(self, *, training: bool) -> BatchReader:
        sampling = None
        if "video" in self.inputs:
            sampling = self.train_sampling if training else self.eval_sampling
        return BatchReader(
            store=self._store,
            clips=self._reader,
            times=self._times,
            labels=self._labels,
            sampling=sampling,
            seed=self._seed,
            augment=self._augment if training else None,
            training=training,
            pinned=self._device.type == "cuda",
        )

    @property
    def _device(self) -> torch.device:
        """Where batches go: this rank's device."""
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    @property
    def _threads(self) -> int:
        if self._num_threads != "auto":
            return self._num_threads
        return max(1, min(cores() - 1, _MOST_THREADS)) if self._device.type == "cuda" else 2

    def _open_reader(self) -> None:
        if "video" not in self.inputs:
            self._reader = ClipReader(self._store)
            return
        self._cache = open_cache(
            self._store,
            cache="off" if self._decode == "cuda" else self._cache_where,
            size=self.inputs["video"].size,
            limit_gb=self._cache_gb,
            pinned=self._device.type == "cuda",
        )
        decode: Decode = "cpu" if self._cache and self._decode != "decord" else self._decode
        decoder = choose_decoder(decode, self._device)
        self._reader = ClipReader(self._store, decoder=decoder, cache=self._cache)

    def _evaluation_windows(self, clip: str) -> Sequence[Window]:
        return evaluation_windows(self.eval_sampling, self._times[clip], clip, seed=self._seed)

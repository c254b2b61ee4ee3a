"""R's answers, and sweep folders with scores that the tests choose."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datamodules.ledger import enter
from evaluation.records.listing import read_listing

SHIFT = 0.75  # log of the loss weight: probability = sigmoid(logit - SHIFT)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@dataclass
class SweepMaker:
    """Writes a sweep folder, one run at a time, and the store that it pretends to come from."""

    path: Path
    architectures: Sequence[str] = ("alpha", "beta")
    modalities: Sequence[str] = ("image", "video")
    folds: Sequence[Any] = (0, 1)
    seeds: Sequence[int] = (0,)
    patients: int = 40
    holdout: int = 10
    repeats: int = 1
    analysis: dict[str, Any] = field(default_factory=dict)
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        names = [f"p{number:03d}" for number in range(self.patients + self.holdout)]
        self.labels = {name: int(number % 3 == 0) for number, name in enumerate(names)}
        self.development, self.hidden = names[: self.patients], names[self.patients :]
        # Blocks of six keep the classes balanced over the folds.
        numbered = [fold for fold in self.folds if fold != "all"]
        self.home = {
            name: numbered[(n // 6) % len(numbered)] for n, name in enumerate(self.development)
        }
        # Further partitions deal the blocks in another order: still balanced.
        blocks = -(-len(self.development) // 6)
        self.further = []
        for repeat in range(1, self.repeats):
            order = np.random.default_rng(repeat).permutation(blocks)
            self.further.append(
                {
                    name: numbered[order[n // 6] % len(numbered)]
                    for n, name in enumerate(self.development)
                }
            )

    def table(self, entry: dict[str, Any]) -> pd.DataFrame:
        fold, _, repeat = str(entry["fold"]).partition("r")
        home = [self.home, *self.further][int(repeat or 0)]
        parts = dict.fromkeys(self.hidden, "test")
        for number, name in enumerate(self.development):
            inner = "inner_val" if number % 5 == 0 else "train"
            parts[name] = "oof" if str(home[name]) == fold else inner
        rng = np.random.default_rng(sum(entry["run_id"].encode()))
        truth = np.array([self.labels[name] for name in parts])
        logit = np.round(rng.normal(truth * 1.2, 1.0), 2)
        return pd.DataFrame(
            {
                **{key: entry[key] for key in ("run_id", "architecture", "modality", "seed")},
                "fold": str(entry["fold"]),
                "part": list(parts.values()),
                "patient_id": list(parts),
                "label": [
                    np.nan if part == "test" else float(self.labels[name])
                    for name, part in parts.items()
                ],
                "logit": logit,
                "probability": sigmoid(logit - SHIFT),
                "n_items": 1,
                "config_sha": "c" * 64,
                "split_sha": "a" * 64,
                "store_sha": "b" * 64,
                "checkpoint_sha": "d" * 64,
            }
        )

    def write(self) -> "SweepMaker":
        self.path.mkdir(parents=True)
        for architecture in self.architectures:
            for modality in self.modalities:
                for fold in self.fold_names():
                    for seed in self.seeds:
                        run_id = f"{architecture}-{modality}-fold{fold}-seed{seed}-01234567"
                        self.entries.append(
                            {
                                "run_id": run_id,
                                "architecture": architecture,
                                "modality": modality,
                                "fold": fold,
                                "seed": seed,
                            }
                        )
        self.list_runs()
        for entry in self.entries:
            (self.path / entry["run_id"]).mkdir()
            self.put(entry["run_id"], self.table(entry))
            self.status(entry["run_id"], "done")
            environment = {"python": "3.11.0", "packages": {"torch": "2.6.0"}}
            (self.path / entry["run_id"] / "environment.json").write_text(json.dumps(environment))
        for folder, sealed in ((self.path, True), (self.store, False)):
            folder.mkdir(exist_ok=True)
            # An image and a clip each, and a second image of every fifth patient.
            held = [
                (name, modality)
                for number, name in enumerate([*self.development, *self.hidden])
                for modality in ("ceus", "image", "image")[: 2 + (number % 5 == 0)]
            ]
            names = [name for name, _ in held]
            clip = [modality == "ceus" for _, modality in held]
            cohort = pd.DataFrame(
                {
                    "item_id": [f"{number:016x}" for number in range(len(names))],
                    "patient_id": names,
                    "modality": [modality for _, modality in held],
                    "frames": np.where(clip, 30, 1),
                    "fps": np.where(clip, 15.0, np.nan),
                    "seconds": np.where(clip, 2.0, np.nan),
                    "width": 64,
                    "height": 48,
                    "warnings": ["2 damaged frames, concealed" if each else "" for each in clip],
                    "label": pd.array(
                        [
                            None if sealed and name in self.hidden else self.labels[name]
                            for name in names
                        ],
                        dtype="Int8",
                    ),
                }
            )
            cohort.to_parquet(folder / "cohort.parquet", index=False)
        return self

    @property
    def store(self) -> Path:
        return self.path.parent / "store"

    def fold_names(self) -> list[Any]:
        further = (
            f"{fold}r{repeat}"
            for repeat in range(1, self.repeats)
            for fold in self.folds
            if fold != "all"
        )
        return [*self.folds, *further]

    def list_runs(self) -> None:
        content = {"name": "trial", "analysis": self.analysis, "runs": self.entries}
        (self.path / "sweep.json").write_text(json.dumps(content))

    def begin(self) -> "SweepMaker":
        """Enter the sweep in its store's ledger, and its analysis in its runs, as `ceus` does."""
        sha = read_listing(self.path).analysis_sha
        split = {"split": "default", "split_sha": "a" * 64}
        entry = enter(self.store, "sweep", self.hidden, name="trial", analysis_sha=sha, **split)
        path = self.path / "sweep.json"
        registered = {"store": str(self.store), "entry": entry}
        path.write_text(json.dumps(json.loads(path.read_text()) | {"registered": registered}))
        for run_id in self.run_ids():
            status = json.loads((self.path / run_id / "status.json").read_text())
            text = json.dumps(status | {"analysis_sha": sha})
            (self.path / run_id / "status.json").write_text(text)
        return self

    def status(self, run_id: str, state: str, reason: str | None = None) -> None:
        content = {"state": state, "reason": reason, "attempts": 1}
        (self.path / run_id / "status.json").write_text(json.dumps(content))

    def put(self, run_id: str, table: pd.DataFrame) -> None:
        table.to_parquet(self.path / run_id / "predictions.parquet", index=False)

    def get(self, run_id: str) -> pd.DataFrame:
        return pd.read_parquet(self.path / run_id / "predictions.parquet")

    def change(self, run_id: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
        self.put(run_id, edit(self.get(run_id)))

    def run_ids(self, **where: Any) -> list[str]:
        return [e["run_id"] for e in self.entries if all(e[k] == v for k, v in where.items())]


@dataclass
class StudyMaker(SweepMaker):
    """A sweep with the rest of its folder, at the prevalence and the AUCs of the reference study.

    A patient's latent score is shared by the runs of a modality, so that cells are correlated and
    deployed models generalise as the out-of-fold scores say.
    """

    architectures: Sequence[str] = ("resnet", "densenet", "inception", "mvit", "swin")
    modalities: Sequence[str] = ("image", "video", "combined")
    folds: Sequence[Any] = (0, 1, 2, 3, 4, "all")
    seeds: Sequence[int] = (0, 1, 2)
    patients: int = 280
    holdout: int = 116
    signal: dict[str, float] = field(
        default_factory=lambda: {"image": 0.45, "video": 0.8, "combined": 1.0}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for names in (self.development, self.hidden):
            # 55 of 280 and 27 of 116, dealt over the folds.
            self.labels |= {name: int(n % 5 == n // 5 % 5) for n, name in enumerate(names)}
        numbered = [fold for fold in self.folds if fold != "all"]
        ordered = sorted(self.development, key=lambda name: self.labels[name])
        self.home = {name: numbered[n % len(numbered)] for n, name in enumerate(ordered)}
        rng = np.random.default_rng(5)
        everyone = [*self.development, *self.hidden]
        draws = {m: rng.normal(size=len(everyone)) for m in self.modalities}
        if {"image", "video", "combined"} <= set(draws):
            both = draws["image"] + draws["video"] + rng.normal(size=len(everyone))
            draws["combined"] = both / 3**0.5
        self.latent = {m: dict(zip(everyone, z, strict=True)) for m, z in draws.items()}

    def table(self, entry: dict[str, Any]) -> pd.DataFrame:
        table = super().table(entry)
        modality = entry["modality"]
        truth = table["patient_id"].map(self.labels)
        rng = np.random.default_rng(sum(entry["run_id"].encode()))
        logit = (
            truth * self.signal.get(modality, 0.8)
            + 0.8 * table["patient_id"].map(self.latent[modality])
            + rng.normal(scale=0.6, size=len(table))
            + np.where(table["part"] == "train", 1.2 * (truth - 0.2), 0)
            - 1.7
            + SHIFT
        ).round(2)
        table = table.assign(logit=logit, probability=sigmoid(logit - SHIFT))
        lacking = {"image": "image", "video": "ceus"}.get(modality)
        return table[~table["patient_id"].isin(self.lack(lacking))]

    def lack(self, modality: str | None) -> list[str]:
        """Patients without an item of a modality: 4 without an image, 6 without a clip."""
        start, count = {"image": (7, 4), "ceus": (30, 6)}.get(str(modality), (0, 0))
        return self.development[start : start + count]

    def write(self) -> "StudyMaker":
        super().write()
        rng = np.random.default_rng(6)
        for entry in self.entries:
            folder = self.path / entry["run_id"]
            (folder / "metrics.csv").write_text(self.metrics(entry))
            (folder / "config.yaml").write_text(self.config(entry))
        facts = {
            name: {
                "age": int(rng.normal(45, 12)),
                "sex": str(rng.choice(["F", "M"], p=[0.75, 0.25])),
                "centre": str(rng.choice(["A", "B"])),
                "nodule_mm": round(float(rng.normal(11 + 3 * self.labels[name], 4)), 1),
                "operator": name.upper(),
            }
            for name in [*self.development, *self.hidden]
        }
        facts[self.development[3]]["age"] = None
        for folder in (self.path, self.store):
            cohort = pd.read_parquet(folder / "cohort.parquet").drop(columns="item_id")
            items = []
            for modality, suffix in (("image", "0"), ("ceus", "1")):
                mine = cohort[~cohort["patient_id"].isin(self.lack(modality))]
                sizes = np.random.default_rng(7).normal(60, 8, size=len(mine)).round(1)
                items.append(
                    mine.assign(
                        item_id=[f"{n:015x}{suffix}" for n in range(len(mine))],
                        modality=modality,
                        seconds=sizes if modality == "ceus" else 0.0,
                        fps=np.where(np.arange(len(mine)) % 3, 15.0, 25.0),
                        warnings=np.where(np.arange(len(mine)) % 40, "", "short clip"),
                    )
                )
            table = pd.concat(items, ignore_index=True)
            named = pd.DataFrame([facts[name] for name in table["patient_id"]])
            table.join(named).to_parquet(folder / "cohort.parquet", index=False)
        (self.path / "skipped.csv").write_text(
            "line,reason,modality,lost_patient\n12,file must exist,image,1\n"
            "13,file must exist,ceus,1\n"
            "40,clip must be decodable,ceus,\n41,label must be '0' or '1',,2\n"
        )
        (self.path / "quality.csv").write_text(
            "item_id,modality,codec,psnr,ssim,crop_method,masked,warnings\n"
            "0,image,image,,,panel,0.0,\n1,ceus,mpeg4,39.7,0.99,panel,0.01,\n"
            "2,ceus,h264,41.2,0.99,as is,0,\n"
        )
        split = {"name": "default", "seed": 0, "num_folds": 5, "holdout": "fraction 0.292929"}
        design = {"canvas": 256, "covariates": [*named], "split": split | {"inner_fraction": 0.2}}
        (self.path / "design.json").write_text(json.dumps(design))
        return self

    def metrics(self, entry: dict[str, Any]) -> str:
        rng = np.random.default_rng(sum(entry["run_id"].encode()) + 1)
        epochs = int(rng.integers(18, 34))
        lines = ["epoch,inner_auroc,inner_bce,step,train_loss"]
        for epoch in range(epochs):
            bce = 0.48 + 0.2 * np.exp(-epoch / 4) + 0.004 * max(0, epoch - 10) + rng.normal(0, 0.01)
            lines.append(f"{epoch},{0.6 + 0.1 * rng.random():.4f},{bce:.5f},{20 * epoch + 19},")
            loss = 0.75 * np.exp(-epoch / 14) + 0.05 + rng.normal(0, 0.01)
            lines.append(f"{epoch},,,{20 * epoch + 19},{loss:.5f}")
        return "\n".join(lines) + "\n"

    def config(self, entry: dict[str, Any]) -> str:
        encoder = {
            "class_path": "backbones.TimmImageEncoder",
            "init_args": {"name": "resnet50", "pretrained": True},
        }
        sampling = {"class_path": "datamodules.RandomWindow", "init_args": {"clip_seconds": 30.0}}
        study = {
            "architecture": entry["architecture"], "modality": entry["modality"], "size": "full",
            "store": "stores/study", "image_encoder": encoder, "video_encoder": encoder,
            "image_size": 224, "video_size": 224, "num_frames": 32, "encoder_lr": 0.0001,
            "head_lr": 0.001, "batch_size": 8, "patience": 15, "train_sampling": sampling,
            "eval_sampling": sampling, "augment": {"class_path": "datamodules.Augment"},
            "head": {"class_path": "backbones.ConcatFusion"},
        }  # fmt: skip
        model = {"class_path": "lightning_modules.VideoClassifier", "init_args": {}}
        trainer = {"max_epochs": 60, "precision": "bf16-mixed", "gradient_clip_val": 1.0}
        return json.dumps({"study": study, "trainer": trainer, "model": model})


@pytest.fixture
def reference() -> Callable[[str], tuple[dict[str, Any], dict[str, np.ndarray]]]:
    """R's answer and the columns it was given, every number to the last digit."""

    def read(name: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        folder = Path(__file__).parent / "fixtures"
        # Not pandas: its default parser is off by an ulp in some of its versions.
        with (folder / f"{name}.csv").open() as file:
            rows = list(csv.DictReader(file))
        columns = {key: np.array([float(row[key]) for row in rows]) for key in rows[0]}
        return json.loads((folder / f"{name}.json").read_text()), columns

    return read


@pytest.fixture(scope="session")
def sweep_maker() -> type[SweepMaker]:
    """To make sweeps of other sizes."""
    return SweepMaker


@pytest.fixture(scope="session")
def study_maker() -> type[StudyMaker]:
    """To make whole sweep folders, from tiny to the size of the study."""
    return StudyMaker


@pytest.fixture
def sweep(tmp_path: Path) -> SweepMaker:
    """Two architectures × two modalities × two folds, all done, the test set sealed."""
    return SweepMaker(tmp_path / "trial").write()

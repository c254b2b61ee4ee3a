"""One run: a checked configuration with an id that stands for the work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules.store.folder import Store
from datamodules.store.splits import Split, load_split
from experiments.config.files import ROOMS, load_yaml
from experiments.config.identity import sha_of, what_counts
from experiments.config.pretraining import refuse_leak
from experiments.config.study import Study, study_of
from experiments.config.warm_start import resolved
from experiments.config.weights import from_folder
from experiments.errors import ConfigError

_LONGEST_CELL = 240  # of the 255 bytes that file systems take, less the hash


@dataclass(frozen=True)
class Run:
    """One cell x fold x seed, resolved.

    Attributes:
        run_id: `ARCHITECTURE-MODALITY-foldK-seedS-HASH8`, in repeat R `-foldKrR-`; the same work
            has the same id.
        study: Our keys, checked.
        config: The whole resolved configuration, plain values only.
        shas: `config_sha`, `split_sha`, `store_sha`: what the id stands for.
    """

    run_id: str
    study: Study
    config: dict[str, Any]
    shas: dict[str, str]

    @property
    def folder(self) -> Path:
        """`RUNS/SWEEP/RUN_ID`."""
        return self.study.runs / self.study.sweep / self.run_id

    @property
    def architecture(self) -> str:
        """Its name, with the settings of further axes."""
        return self.study.architecture


def open_cohort(store: Path, split: str) -> tuple[Store, Split]:
    """A store and a split of it; `DataError` if either is not there or not whole."""
    return Store(store), load_split(store, split)


def make_run(
    config: Mapping[str, Any], cohort: Callable[[Path, str], tuple[Store, Split]] = open_cohort
) -> Run:
    """Check the `study:` keys and give the configuration its id.

    Args:
        config: As `compose` gives it.
        cohort: Opens store and split; a sweep gives one that remembers, for its runs share them.

    Raises:
        ConfigError: For an unknown or mistyped key under `study:`, an unknown top-level key, or
            settings that do not go together.
        DataError: If the store or the split is not there, or the fold is not in the split.
    """
    unknown = set(config) - set(ROOMS)
    if unknown:
        raise ConfigError(
            f"top-level keys must be of {', '.join(ROOMS)}, got {', '.join(sorted(unknown))}. "
            "Move your keys under one of these."
        )
    study = study_of(config["study"])
    config = from_folder(resolved(config))
    _check_balance(config)
    if config["trainer"].get("max_epochs") == 0 and study.finetune != "probe":
        raise ConfigError(
            "trainer.max_epochs must be at least 1, got 0. For encoders as they come set "
            "finetune=probe."
        )
    if study.fold == "none":  # pretraining on patients whom no split knows
        everyone = Store(study.store, with_unlabelled=True)
        if everyone.items["label"].notna().all():
            raise ConfigError(
                f"fold must be a number or all where every patient has a label, got none "
                f"({study.store}). Set --fold K to learn from the training patients of fold K."
            )
        store_sha, split_sha = everyone.sha, ""
    else:
        store, split = cohort(study.store, study.split)
        # Refuses a fold that is not there, before anything starts.
        split.parts(study.fold, study.repeat)
        refuse_leak(config, store, split)
        store_sha, split_sha = store.sha, split.sha
    shas = {
        "config_sha": sha_of(what_counts(config)),
        "split_sha": split_sha,
        "store_sha": store_sha,
    }
    cell = f"{study.architecture}-{study.modality}-fold{study.fold_name}-seed{study.seed}"
    if len(cell) > _LONGEST_CELL:
        raise ConfigError(
            f"name of a run must be of at most {_LONGEST_CELL} characters, for it is that of a "
            f"folder, got {len(cell)} ({cell[:60]}…). Vary fewer settings, or shorten the name of "
            "the architecture."
        )
    return Run(run_id=f"{cell}-{sha_of(shas)[:8]}", study=study, config=dict(config), shas=shas)


def load_run(folder: Path) -> Run:
    """The run that a folder was made for.

    Raises:
        ConfigError: If there is no readable config, or it no longer stands for this run (an
            edited file, a changed split or store).
    """
    path = folder / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"run folder must hold config.yaml, got none ({folder}). Start the sweep."
        )
    config: Any = OmegaConf.to_container(load_yaml(path))
    if not all(
        isinstance(config.get(room), dict) for room in ("study", "model", "data", "trainer")
    ):
        raise ConfigError(
            f"config.yaml must hold {', '.join(ROOMS)}, got one without some ({path}). Delete it "
            "and start the sweep again, which writes it anew."
        )
    run = make_run(config)
    if run.run_id != folder.name:
        raise ConfigError(
            f"config.yaml must be the one its run was named for, got {run.run_id!r} ({folder}). "
            "The file, the split or the store was changed since; start the sweep again."
        )
    # The folder may have been moved since.
    here = replace(run.study, runs=folder.parent.parent, sweep=folder.parent.name)
    return replace(run, study=here)


def _check_balance(config: Mapping[str, Any]) -> None:
    """Repeating positives and weighting them is one remedy twice (docs/design.md, Protocol)."""
    sampling = config["data"].get("init_args", {}).get("class_sampling")
    weight = config["model"].get("init_args", {}).get("pos_weight", 1)
    if sampling == "balanced" and weight != 1:
        raise ConfigError(
            f"pos_weight must be 1 where class_sampling is balanced, got {weight!r}: both at once "
            "would favour positives twice. Set pos_weight=1, or class_sampling=stratified."
        )

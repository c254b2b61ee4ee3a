"""From a resolved configuration to checked settings and live objects, by LightningCLI."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from experiments.config.study import Study, explain
from experiments.errors import ConfigError
from experiments.training.trial import check_model
from lightning_modules import FreezeEncoders, SyncBatchNorm, WeightAverage


class _StudyCLI(LightningCLI):
    """LightningCLI over a configuration in memory: any LightningModule and DataModule by name."""

    def __init__(self, config: Mapping[str, Any], *, live: bool, **trainer_extras: Any) -> None:
        self._live = live
        self._trainer_extras = trainer_extras
        super().__init__(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=None,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            parser_kwargs={"exit_on_error": False},
            args=lightning_part(config),
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        # The base class warns whenever sys.argv holds anything, as it does in every launched run.
        self.config = parser.parse_object(args)

    def _set_seed(self) -> None:
        if self._live:
            super()._set_seed()

    def instantiate_classes(self) -> None:
        if self._live:
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        extras = dict(self._trainer_extras)
        callbacks: list[Callback] = extras.pop("callbacks", [])
        self.trainer_defaults = {"callbacks": callbacks}
        own = self._get(self.config_init, "trainer")["plugins"] or []
        own = own if isinstance(own, list) else [own]
        if SLURMEnvironment.detect() and not own:
            # The job's script requeues; a run goes on from its own last.ckpt, not from Lightning's.
            own = [SLURMEnvironment(auto_requeue=False)]
        if self._get(self.config_init, "trainer")["sync_batchnorm"]:
            own = [*own, SyncBatchNorm()]
        extras["plugins"] = [*own, *extras["plugins"]]
        return super().instantiate_trainer(**extras, **kwargs)


def lightning_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without our own keys; a copy, for the parser writes into what it gets."""
    return {key: copy.deepcopy(value) for key, value in config.items() if key != "study"}


def check(configs: Iterable[Mapping[str, Any]]) -> None:
    """Hold configurations against the constructors they name, without building any network.

    Raises:
        ConfigError: For the first key, type, class or range that does not fit, naming it, or a
            head that cannot start from a probe.
    """
    parser: LightningArgumentParser | None = None
    for config in configs:
        try:
            if parser is None:
                parser = _StudyCLI(config, live=False).parser
            parser.parse_object(lightning_part(config))
        except ArgumentError as error:
            raise ConfigError(explain(error)) from error
        check_model(config)


def build(
    config: Mapping[str, Any],
    *,
    callbacks: list[Callback] | None = None,
    logger: list[Logger] | bool = False,
    plugins: Sequence[CheckpointIO] = (),
    root: Path | None = None,
) -> tuple[Trainer, LightningModule, LightningDataModule]:
    """Seed everything and construct what the configuration names.

    Args:
        config: As `experiments.config.compose.compose` gives it.
        callbacks: Added to those of the configuration.
        logger: Lightning loggers, or False for none.
        plugins: Added to those of the configuration.
        root: Where Lightning may write; None for the current folder.

    Raises:
        ConfigError: If the configuration does not fit the constructors.
    """
    try:
        cli = _StudyCLI(
            config,
            live=True,
            callbacks=callbacks or [],
            logger=logger,
            plugins=plugins,
            default_root_dir=str(root) if root else None,
            # Where it selects nothing, inner validation is trained on: scoring it says nothing.
            **({"limit_val_batches": 0} if _ends_by_schedule(config) else {}),
        )
    except ArgumentError as error:
        raise ConfigError(explain(error)) from error
    except ValueError as error:
        # jsonargparse wraps what a constructor raised into a list of types that did not fit.
        cause = error.__cause__
        if type(error) is ValueError and cause is not None:
            raise ConfigError(str(cause)) if type(cause) is ValueError else cause from None
        raise
    trainer = cli.trainer
    if config["trainer"].get("sync_batchnorm") and trainer.strategy.root_device.type == "cpu":
        raise ConfigError(
            "trainer.sync_batchnorm must be false on a CPU, where torch has none, got true. "
            "Set trainer.sync_batchnorm=false."
        )
    torch.set_float32_matmul_precision(config["study"].get("matmul_precision", "highest"))
    return trainer, cli.model, cli.datamodule


def _ends_by_schedule(config: Mapping[str, Any]) -> bool:
    return config["study"].get("selection") in ("last", "ema")


def ending_in(config: Mapping[str, Any], selection: str, **trainer: Any) -> dict[str, Any]:
    """The configuration with another end of training, and changes to its trainer."""
    data = config["data"]
    return {
        **config,
        "study": {**config["study"], "selection": selection},
        "data": {**data, "init_args": {**data["init_args"], "selection": selection}},
        "trainer": {**config["trainer"], **trainer},
    }


def protocol_callbacks(study: Study, folder: Path) -> list[Callback]:
    """Checkpoints, and early stopping where inner validation selects (docs/design.md, Protocol).

    Averaged weights (EMA) are those that validation scores, and so those that are chosen and saved.
    `RunCheckpointIO` leaves in `best.ckpt` weights only; `resume` writes `last.ckpt`,
    `checkpoints.end_weights` what a schedule ends in.

    Raises:
        ConfigError: If a setting is out of range.
    """
    if study.freeze_epochs < 0 or (study.ema_decay is not None and not 0 < study.ema_decay < 1):
        raise ConfigError(
            "freeze_epochs must be at least 0 and ema_decay in (0, 1) or null, got "
            f"{study.freeze_epochs} and {study.ema_decay}. Correct them under study:."
        )
    schedule: list[Callback] = []
    if study.freeze_epochs:
        schedule.append(FreezeEncoders(study.freeze_epochs))
    decay = 0.99 if study.ema_decay is None and study.selection == "ema" else study.ema_decay
    if decay is not None:
        schedule.append(WeightAverage(decay=decay))
    if study.selection != "inner_bce":  # `end_weights` writes what the schedule ends in
        return [*schedule, Checkpoint()]  # lest Lightning add one that writes
    return [
        *schedule,
        EarlyStopping(monitor="inner_bce", mode="min", patience=study.patience, check_finite=True),
        ModelCheckpoint(
            dirpath=folder / "checkpoints",
            filename="best",
            enable_version_counter=False,
            monitor="inner_bce",
            mode="min",
        ),
    ]

"""From a resolved configuration to checked settings and live objects, by LightningCLI."""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentError
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from experiments.compose import Study, explain
from experiments.errors import ConfigError


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
        if SLURMEnvironment.detect() and not self._get(self.config_init, "trainer")["plugins"]:
            # The job's script requeues; a run goes on from its own last.ckpt, not from Lightning's.
            extras["plugins"] = [SLURMEnvironment(auto_requeue=False)]
        return super().instantiate_trainer(**extras, **kwargs)


def lightning_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without our own keys; a copy, for the parser writes into what it gets."""
    return {key: copy.deepcopy(value) for key, value in config.items() if key != "study"}


def check(configs: Iterable[Mapping[str, Any]]) -> None:
    """Hold configurations against the constructors they name, without building anything.

    Raises:
        ConfigError: For the first key, type or class that does not fit, naming it.
    """
    parser: LightningArgumentParser | None = None
    for config in configs:
        try:
            if parser is None:
                parser = _StudyCLI(config, live=False).parser
            parser.parse_object(lightning_part(config))
        except ArgumentError as error:
            raise ConfigError(explain(error)) from error


def build(
    config: Mapping[str, Any],
    *,
    callbacks: list[Callback] | None = None,
    logger: list[Logger] | bool = False,
    root: Path | None = None,
) -> tuple[Trainer, LightningModule, LightningDataModule]:
    """Seed everything and construct what the configuration names.

    Args:
        config: As `experiments.compose.compose` gives it.
        callbacks: Added to those of the configuration.
        logger: Lightning loggers, or False for none.
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
            default_root_dir=str(root) if root else None,
        )
    except ArgumentError as error:
        raise ConfigError(explain(error)) from error
    except ValueError as error:
        # jsonargparse wraps what a constructor raised into a list of types that did not fit.
        if type(error) is ValueError and error.__cause__ is not None:
            raise error.__cause__ from None
        raise
    return cli.trainer, cli.model, cli.datamodule


def protocol_callbacks(study: Study, folder: Path) -> list[Callback]:
    """Early stopping and checkpoints as DESIGN §3 has them: on inner BCE, never on a test part.

    `best.ckpt` holds weights only; `last.ckpt` is written by `experiments.resume`.
    """
    return [
        EarlyStopping(monitor="inner_bce", mode="min", patience=study.patience, check_finite=True),
        ModelCheckpoint(
            dirpath=folder / "checkpoints",
            filename="best",
            monitor="inner_bce",
            mode="min",
            save_weights_only=True,
            enable_version_counter=False,
        ),
    ]

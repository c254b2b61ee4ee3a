"""The `ceus` command. Each subcommand imports what it needs, so that help and errors are quick."""

from __future__ import annotations

import re
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jsonargparse import ArgumentParser, Namespace

if TYPE_CHECKING:
    pass
from experiments.launchers.go import go

_Presets = Literal["demo", "published"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ceus`: exit 0 when all went well, 1 when runs failed, 2 for something to mend.

    Evaluating exits 3 when the test set was opened again or something changed since it was opened.
    """
    parser, commands = _parser()
    options = parser.parse_args(_gathered(sys.argv[1:] if arguments is None else arguments))
    name = options.subcommand
    try:
        code = commands[name](options[name])
    except KeyboardInterrupt:
        print("\nStopped. Call the same command again to go on.", file=sys.stderr)
        code = 130
    except ValueError as error:
        if not _is_users(error):
            raise
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except OSError as error:
        from experiments.run_folder.failures import storage_complaint

        complaint = storage_complaint(error)
        if complaint is None:
            raise
        if options.debug:
            traceback.print_exc()
        print(f"error: {complaint}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _gathered(arguments: Sequence[str]) -> list[str]:
    """Bring KEY=VALUE settings together, wherever they stand: argparse knows only one place."""
    if not {"fit", "sweep"}.intersection(arguments[:2]):
        return list(arguments)
    settings = [text for text in arguments if re.match(r"[A-Za-z_][\w.]*=", text)]
    others = [text for text in arguments if text not in settings]
    return [*others, "--set", *settings] if settings else others


def _is_users(error: BaseException) -> bool:
    from datamodules.errors import DataError
    from evaluation.errors import EvaluationError
    from experiments.errors import ConfigError

    return isinstance(error, DataError | EvaluationError | ConfigError)


def _parser() -> tuple[ArgumentParser, dict[str, Callable[[Namespace], int]]]:
    parser = ArgumentParser(
        prog="ceus",
        description="Does a CEUS clip, an ultrasound image, or both tell which PTC carry an occult "
        "lymph node metastasis? The commands in the order of a study:",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    subcommands = parser.add_subcommands()
    commands: dict[str, Callable[[Namespace], int]] = {}

    def command(name: str, run: Callable[[Namespace], int], text: str) -> ArgumentParser:
        sub = ArgumentParser(description=text)
        subcommands.add_subcommand(name, sub, help=text)
        commands[name] = run
        return sub

    def settings(sub: ArgumentParser, text: str) -> None:
        text += "; may stand anywhere, without --set"
        sub.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help=text)

    sub = command("phantom", _phantom, "make a synthetic cohort with a known answer")
    sub.add_argument("out", type=Path, help="folder to make")
    sub.add_argument("--patients", type=int | None, default=None, help="default: the preset's")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--preset", type=_Presets, default="demo")

    sub = command("prepare", _prepare, "check raw files and write a store that is read exactly")
    sub.add_argument("cohort", type=Path, help="cohort.csv: patient_id,label,modality,path")
    sub.add_argument("store", type=Path, help="folder to write, or to bring up to date")
    sub.add_argument("--canvas", type=int, default=256, help="side of the stored frames, pixels")
    sub.add_argument("--covariates", type=str, default="", help="columns to keep, as age,sex")
    sub.add_argument("--skip-bad", action="store_true", help="leave bad rows out, and say which")
    sub.add_argument("--as-is", action="store_true", help="keep whole frames: look for no panel")
    sub.add_argument(
        "--require-review", action="store_true", help="refuse doubtful panels until approved"
    )
    sub.add_argument("--workers", type=int | None, default=None, help="processes; default: cores")

    sub.add_argument(
        "--cache",
        type=int | None,
        default=None,
        metavar="SIZE",
        help="also decode all clips once at this size, pixels, for cache=disk",
    )

    sub = command("split", _split, "freeze hold-out and folds by patient")
    sub.add_argument("store", type=Path)
    sub.add_argument("--name", type=str, default="default")
    sub.add_argument("--folds", type=int, default=5)
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--holdout", type=float, default=116 / 396, help="share of patients, 0 to 1")

    sub = command(
        "fit", _fit, "train and score one run: ceus fit architecture=resnet modality=video"
    )
    settings(sub, "keys of experiments/yaml/base.yaml")

    sub = command("sweep", _sweep, "train and score all runs of a sweep that are not done")
    sub.add_argument("file", type=str, help="demo, study, or a YAML file of your own")
    settings(sub, "for every run; an axis is narrowed")
    sub.add_argument(
        "--cohort",
        type=str | None,
        default=None,
        help="first prepare and split this cohort.csv, or `phantom`, as the file's data: says",
    )
    sub.add_argument("--evaluate", action="store_true", help="end with the comparison table")
    sub.add_argument("--extend", action="store_true", help="add new runs to a frozen sweep")
    sub.add_argument(
        "--plan",
        action="store_true",
        help="only show the runs, what would start, and an estimate of hours and disk",
    )
    sub.add_argument(
        "--wait", action="store_true", help="with SLURM: follow the runs until all have ended"
    )

    sub = command("status", _status, "show the runs of a sweep folder, live or dead")
    sub.add_argument("folder", type=Path, help="as runs/demo")
    sub.add_argument(
        "--failed", action="store_true", help="list what did not end well, why, and its log"
    )

    sub = command("evaluate", _evaluate, "tables, figures and report from the prediction tables")
    sub.add_argument("folder", type=Path, help="as runs/demo")
    sub.add_argument(
        "--unseal-test",
        type=Path | None,
        nargs="?",
        const=Path(),
        default=None,
        metavar="STORE",
        help="open the test set with labels of the store (by default the runs' own); is recorded",
    )
    sub.add_argument("--reason", type=str, default="", help="why it is opened")

    _tracking_commands(command)
    return parser, commands


def _tracking_commands(command: Callable[..., ArgumentParser]) -> None:
    sub = command("wandb-sync", _wandb_sync, "upload to W&B what was tracked offline")
    sub.add_argument("folder", type=Path, help="as runs/demo")
    sub.add_argument("--seconds", type=float, default=600.0, help="most that one run may take")

    sub = command("dashboard", _dashboard, "define a W&B workspace and report of a sweep")
    sub.add_argument("folder", type=Path, help="as runs/demo")
    sub.add_argument("--online", action="store_true", help="create them at W&B")
    sub.add_argument("--entity", type=str, default="", help="user or team; else WANDB_ENTITY")
    sub.add_argument("--project", type=str, default="", help="else WANDB_PROJECT, else ceus")

    sub = command("patient", _patient, "name the patients that hashes in logs and W&B stand for")
    sub.add_argument("store", type=Path, help="that the runs were made from")
    sub.add_argument("hashes", type=str, nargs="+", metavar="HASH", help="16 hex digits")


def _phantom(options: Namespace) -> int:
    from datamodules.phantom.make import make_phantom

    path = make_phantom(
        options.out, patients=options.patients, seed=options.seed, preset=options.preset
    )
    print(f"cohort: {path}")
    return 0


def _prepare(options: Namespace) -> int:
    from datamodules.ingest.prepare import prepare

    prepare(
        options.cohort,
        options.store,
        canvas=options.canvas,
        covariates=[name for name in options.covariates.split(",") if name],
        skip_bad=options.skip_bad,
        as_is=options.as_is,
        require_review=options.require_review,
        workers=options.workers,
    )
    print(f"store: {options.store}")
    if options.cache is not None:
        from datamodules.store.clips import fill_cache

        print(f"cache: {fill_cache(options.store, size=options.cache)}")
    return 0


def _split(options: Namespace) -> int:
    from datamodules.store.splits import make_split

    path = make_split(
        options.store,
        name=options.name,
        num_folds=options.folds,
        seed=options.seed,
        holdout_fraction=options.holdout,
    )
    print(f"split: {path}")
    return 0


def _fit(options: Namespace) -> int:
    from experiments.processes import warm_server

    warm_server()  # imports while we compose
    from experiments.config.compose import compose, make_run
    from experiments.sweeps.expand import Sweep
    from experiments.sweeps.file import LauncherSettings

    run = make_run(compose(options.set))
    devices = run.config["trainer"]["devices"]
    settings = LauncherSettings(parallel=1, devices_per_run=devices if devices != "auto" else 1)
    # Single runs gather in one folder, listed like a sweep's, so that evaluate reads them too.
    sweep = Sweep(run.study.sweep, run.folder.parent, (run,), settings)
    code = go(sweep, extend=True)
    print(f"run: {run.folder}")
    return code


def _sweep(options: Namespace) -> int:
    from experiments.processes import warm_server

    warm_server()  # imports while we compose
    from experiments.errors import ConfigError
    from experiments.sweeps.expand import expand, make_data
    from experiments.sweeps.file import read_sweep

    file = read_sweep(options.file, options.set)
    if options.cohort and options.plan:
        raise ConfigError(
            f"--plan must come without --cohort, for it writes nothing, got {options.cohort!r}. "
            "Prepare the store first: ceus prepare."
        )
    if options.cohort:
        make_data(file, options.cohort)
    sweep = expand(file)
    if options.plan:
        from rich.console import Console

        from experiments.launchers.plan import plan

        Console().print(plan(sweep))
        return 0
    # Evaluation needs the ends.
    code = go(sweep, extend=options.extend, wait=options.wait or options.evaluate)
    if not options.evaluate:
        return code
    from evaluation.remembered import remembered

    if text := remembered(sweep.folder):
        print(text)
        return code
    return max(code, _print_evaluation(sweep.folder))


def _status(options: Namespace) -> int:
    from experiments.launchers.overview import print_overview

    print_overview(options.folder, failed=options.failed)
    return 0


def _evaluate(options: Namespace) -> int:
    import evaluation

    if options.unseal_test is not None:
        store = _store_of(options.folder) if options.unseal_test == Path() else options.unseal_test
        evaluation.unseal(options.folder, store, reason=options.reason)
    return _print_evaluation(options.folder)


def _wandb_sync(options: Namespace) -> int:
    from experiments.tracking.sync import upload_sweep

    failed = False
    for upload in upload_sweep(options.folder, run_seconds=options.seconds):
        print(upload, flush=True)
        failed |= upload.outcome == "failed"
    return int(failed)


def _dashboard(options: Namespace) -> int:
    import os

    if options.project:
        os.environ["WANDB_PROJECT"] = options.project
    from experiments.tracking.dashboard import make_dashboard

    made = make_dashboard(options.folder, online=options.online, entity=options.entity)
    print(f"dashboard: {made.file}")
    for url in made.urls:
        print(url)
    return 0


def _patient(options: Namespace) -> int:
    from datamodules.store.pseudonyms import Pseudonyms

    patients = Pseudonyms(options.store)
    for patient_hash in options.hashes:
        print(f"{patient_hash} {patients.find(patient_hash)}")
    return 0


def _store_of(folder: Path) -> Path:
    """The store that the runs of a sweep were made from, as their configuration names it."""
    from experiments.config.files import load_yaml
    from experiments.errors import ConfigError

    configs = sorted(folder.glob("*/config.yaml"))
    if not configs:
        raise ConfigError(
            f"folder must hold runs with a config.yaml, got none ({folder}). Give the store: "
            "--unseal-test STORE."
        )
    return Path(load_yaml(configs[0])["study"]["store"])


def _print_evaluation(folder: Path) -> int:
    import evaluation
    from evaluation.remembered import remember

    result = evaluation.evaluate(folder)
    text = evaluation.render(result)
    remember(result, text)
    print(text)
    return result.exit_code

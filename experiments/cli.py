"""The `ceus` command: which commands there are, and how their mistakes are told."""

import argparse
import io
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from experiments.options import add_options
from experiments.processes import memory_complaint


@dataclass(frozen=True)
class Command:
    """A command and the function that it calls.

    Attributes:
        help: What it does, in a line.
        function: `module:function`, imported when the command is called; gives an exit code.
        options: Its parameters, as `add_options` takes them.
        then: Makes the exit code of what the function gives, where that is none.
    """

    help: str
    function: str
    options: str
    then: Callable[[Any], int] | None = None


def _shown_as(name: str) -> Callable[[Any], int]:
    def show(path: Any) -> int:
        print(f"{name}: {path}")
        return 0

    return show


def _print_uploads(uploads: Any) -> int:
    failed = False
    for upload in uploads:
        print(upload, flush=True)
        failed |= upload.outcome == "failed"
    return int(failed)


def _print_dashboard(dashboard: Any) -> int:
    print("\n".join((f"dashboard: {dashboard.file}", *dashboard.urls)))
    return 0


COMMANDS = {
    "doctor": Command(
        "look at machine, store and sweep for what would stand in the way",
        "experiments.doctor.page:doctor",
        "store? --sweep --gpu --as_json:json",
    ),
    "phantom": Command(
        "make a synthetic cohort with a known answer",
        "datamodules.phantom.make:make_phantom",
        "out --patients --seed --preset --masks",
        _shown_as("cohort"),
    ),
    "prepare": Command(
        "check raw files and write a store that is read exactly",
        "datamodules.ingest.prepare:prepare",
        "cohort_csv:cohort store --canvas --covariates --skip_bad --as_is --require_review "
        "--workers --cache_size:cache",
        _shown_as("store"),
    ),
    "tic": Command(
        "time-intensity curves and perfusion parameters of every clip",
        "datamodules.perfusion.tic:tic",
        "store --out --dynamic_range --box",
        _shown_as("table"),
    ),
    "split": Command(
        "freeze hold-out and folds by patient",
        "datamodules.store.splits:make_split",
        "store --name --scheme --num_folds:folds --repeats --seed --holdout_fraction:holdout "
        "--overlap_reason",
        _shown_as("split"),
    ),
    "weights": Command(
        "fetch the pretrained weights of a sweep, for machines without a network",
        "experiments.commands:weights",
        "file --to",
    ),
    "pretrain": Command(
        "teach an encoder the hospital's own frames, without labels",
        "experiments.commands:pretrain",
        "store --encoder --modality --fold",
    ),
    "fit": Command(
        "train and score one run: ceus fit architecture=resnet modality=video",
        "experiments.commands:fit",
        "",
    ),
    "sweep": Command(
        "train and score all runs of a sweep that are not done",
        "experiments.commands:sweep",
        "file --cohort --evaluate --extend --freeze --plan --wait",
    ),
    "work": Command(
        "train and score runs of a sweep together with other machines",
        "experiments.launchers.work:work",
        "folder --parallel --failed",
    ),
    "status": Command(
        "show the runs of a sweep folder, live or dead",
        "experiments.launchers.overview:print_overview",
        "folder --failed",
        lambda _: 0,
    ),
    "evaluate": Command(
        "tables, figures and report from the prediction tables",
        "experiments.commands:evaluate",
        "folder --unseal_test? --reason --unfinished --store --head --figures",
    ),
    "predict": Command(
        "probability, decision and warnings for new patients, from raw files",
        "experiments.predicting.command:predict",
        "folder? --cell --onnx --cohort --image --clip --fps --patient --to --rule --conformal "
        "--store --skip_bad --accelerator --workers",
    ),
    "explain": Command(
        "show what a trained model looked at in patients' images and clips",
        "experiments.explaining.explain:explain",
        "folder --cell --patients --method --out --store",
    ),
    "reader": Command(
        "write a page at which radiologists read the patients, without and with the models",
        "experiments.reading.page:reader",
        "folder --out --part --count --seed --store",
    ),
    "readers": Command(
        "compare radiologists' answers, without and with the models",
        "experiments.reading.compare:readers",
        "folder answers+:answers.json --store",
    ),
    "export": Command(
        "write a trained model as ONNX and by torch.export, for other programs",
        "experiments.exporting.export:export",
        "folder --cell --out --store",
    ),
    "wandb-sync": Command(
        "upload to W&B what was tracked offline",
        "experiments.tracking.sync:upload_sweep",
        "folder --run_seconds:seconds",
        _print_uploads,
    ),
    "dashboard": Command(
        "define a W&B workspace and report of a sweep",
        "experiments.tracking.dashboard:make_dashboard",
        "folder --online --entity --project",
        _print_dashboard,
    ),
    "patient": Command(
        "name the patients that hashes in logs and W&B stand for",
        "experiments.commands:name_patients",
        "store hashes+:hash",
    ),
}
"""In the order of a study."""

_TAKE_SETTINGS = ("doctor", "fit", "pretrain", "sweep", "weights")
_SETTING = re.compile(r"[A-Za-z_][\w.]*=")
_SETTINGS_HELP = "keys of experiments/yaml/base.yaml, as seed=1 or trainer.max_epochs=3"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `ceus`: exit 0 when all went well, 1 when runs failed, 2 for something to mend.

    Evaluating exits 3 when the test set was opened again or elsewhere, or something changed since;
    `ceus doctor` 1 with warnings and 2 with failures.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if "--debug" in given:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("datamodules").setLevel(logging.DEBUG)
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks a character shows another
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        code = _run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\nStopped. Call the same command again to go on.", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # who read the output, as `head`, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
    except Exception as error:
        complaint = _complaint(error)
        if complaint is None:
            raise
        if "--debug" in given:
            traceback.print_exc()
        print(f"error: {complaint}", file=sys.stderr)
        code = 2
    sys.exit(code)


def _run(given: list[str]) -> int:
    settings: list[str] = []
    if set(_TAKE_SETTINGS).intersection(given[:2]):  # KEY=VALUE may stand anywhere
        settings = [text for text in given if _SETTING.match(text)]
        given = [text for text in given if not _SETTING.match(text) and text != "--set"]
    options = vars(parser_of(given).parse_args(given))
    options.pop("debug")
    name = options.pop("command")
    if name in _TAKE_SETTINGS:
        options["settings"] = settings
    command = COMMANDS[name]
    outcome = _function(command)(**options)
    return command.then(outcome) if command.then else int(outcome)


def parser_of(given: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for a command line; only the command that it names knows its options.

    Options are read from the function's signature, so every further command would cost its imports.
    """
    parser = argparse.ArgumentParser(
        prog="ceus",
        description="Does a clip, an ultrasound image, or both tell two classes of patients apart? "
        "The commands in the order of a study:",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    named = next((text for text in given if text in COMMANDS), None)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        if name == named:
            add_options(sub, _function(command), command.options)
            if name in _TAKE_SETTINGS:  # taken out before, for argparse knows only one place
                sub.epilog = f"KEY=VALUE, anywhere: {_SETTINGS_HELP}"
    return parser


def _function(command: Command) -> Callable[..., Any]:
    module, _, name = command.function.partition(":")
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _complaint(error: Exception) -> str | None:
    """What to tell the user of an error that is theirs to mend; None for a bug."""
    if complaint := memory_complaint(error):
        return complaint
    from datamodules.errors import DataError
    from evaluation.errors import EvaluationError
    from experiments.errors import ConfigError
    from experiments.run_folder.failures import storage_complaint

    if isinstance(error, DataError | EvaluationError | ConfigError):
        return str(error)
    if complaint := storage_complaint(error):
        return complaint
    if isinstance(error, OSError) and error.errno and error.filename:
        where = f"{type(error).__name__}: {error.strerror} ({error.filename})"
        return f"file or folder must be usable, got {where}. --debug shows where it was needed."
    return None

"""What the commands of `ceus` do; where one calls a single function, that function is the command.

Nothing is imported before it is needed: help and errors are to come within a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal


def fit(settings: Sequence[str]) -> int:
    """Train and score one run.

    Args:
        settings: KEY=VALUE: architecture, modality and any key of the configuration.
    """
    from experiments.processes import warm_server

    warm_server()  # imports while we compose
    from experiments.config.compose import compose
    from experiments.config.run import make_run
    from experiments.launchers.go import go
    from experiments.sweeps.expand import Sweep
    from experiments.sweeps.file import LauncherSettings

    run = make_run(compose(settings))
    devices = run.config["trainer"]["devices"]
    launcher = LauncherSettings(parallel=1, devices_per_run=devices if devices != "auto" else 1)
    # Single runs gather in one folder, listed like a sweep's, so that evaluate reads them too.
    code = go(Sweep(run.study.sweep, run.folder.parent, (run,), launcher), extend=True)
    print(f"run: {run.folder}")
    return code


def sweep(
    file: str,
    settings: Sequence[str],
    *,
    cohort: str | None = None,
    evaluate: bool = False,
    extend: bool = False,
    freeze: bool = False,
    plan: bool = False,
    wait: bool = False,
) -> int:
    """Train and score all runs of a sweep that are not done.

    Args:
        file: `demo`, `study`, or a YAML file of your own.
        settings: KEY=VALUE for every run; an axis is narrowed.
        cohort: First prepare and split this cohort.csv, or `phantom`, as the file's `data:` says.
        evaluate: End with the comparison table.
        extend: Add new runs to a frozen sweep.
        freeze: Check and freeze the runs and start none, which `ceus work` does.
        plan: Only show the runs, what would start, and an estimate of hours and disk.
        wait: With SLURM: follow the runs until all have ended.
    """
    from experiments.processes import warm_server

    warm_server()  # imports while we compose
    from experiments.errors import ConfigError
    from experiments.launchers.go import go
    from experiments.sweeps.deploy import deployed_after, with_deployed
    from experiments.sweeps.expand import expand, make_data
    from experiments.sweeps.file import read_sweep

    content = read_sweep(file, settings)
    if freeze and (evaluate or plan or wait):
        raise ConfigError(
            "--freeze must come without --evaluate, --plan and --wait, for it starts no run. "
            "Leave one out; afterwards: ceus work, then ceus evaluate."
        )
    if cohort and plan:
        raise ConfigError(
            f"--plan must come without --cohort, for it writes nothing, got {cohort!r}. "
            "Prepare the store first: ceus prepare."
        )
    if cohort:
        make_data(content, cohort)
    folds = expand(content)
    expanded = with_deployed(content, folds)
    if plan:
        from rich.console import Console

        from experiments.launchers.plan import plan as planned

        Console().print(planned(expanded))
        return 0
    # Evaluation needs the ends.
    code = go(expanded, extend=extend, wait=wait or evaluate, freeze_only=freeze)
    if freeze and content.deploy != "none" and expanded is folds:
        print(f"deploy={content.deploy}: chosen and trained by ceus sweep, once these are done")
    if not (code or freeze) and (added := deployed_after(content, folds, expanded)):
        code = go(added, extend=True, wait=wait or evaluate)
    if not evaluate:
        return code
    from evaluation.remembered import remembered

    if text := remembered(expanded.folder):
        print(text)
        return code
    return max(code, _print_evaluation(expanded.folder))


def weights(file: str, settings: Sequence[str], *, to: Path = Path("weights")) -> int:
    """Fetch the pretrained weights of a sweep, for machines without a network.

    Args:
        file: `demo`, `study`, or a YAML file of your own.
        settings: KEY=VALUE for every run; an axis is narrowed.
        to: Folder for them; a sweep takes them from there with weights=FOLDER.
    """
    from experiments.sweeps.expand import configs_of
    from experiments.sweeps.file import read_sweep
    from experiments.training.weights import fetch_weights

    found = 0
    for path, outcome in fetch_weights(configs_of(read_sweep(file, settings)), to):
        print(f"{path}: {outcome}", flush=True)
        found += 1
    if not found:
        print(f"nothing to fetch: no encoder of {file} has pretrained: true")
    return 0


def pretrain(
    store: Path,
    settings: Sequence[str],
    *,
    encoder: str = "resnet",
    modality: Literal["image", "video"] = "image",
    fold: str = "none",
) -> int:
    """Teach an encoder the hospital's own frames, without labels.

    Args:
        store: A prepared store.
        settings: KEY=VALUE, any key of the configuration, as trainer.max_epochs=200.
        encoder: Its architecture, shipped or a YAML file of your own.
        modality: Whether of images or of clips.
        fold: Also learn from the training patients of this fold (a number, or all), with whose
            runs alone the weights then go; none: from patients without a label only.
    """
    from experiments.processes import warm_server

    warm_server()
    from experiments.config.compose import compose
    from experiments.config.pretraining import WEIGHTS, pretraining
    from experiments.config.run import make_run
    from experiments.launchers.go import go
    from experiments.sweeps.expand import Sweep
    from experiments.sweeps.file import LauncherSettings

    own = [f"architecture={encoder}", f"modality={modality}", f"store={store}", f"fold={fold}"]
    run = make_run(pretraining(compose(["sweep=pretrain", "batch_size=32", *settings, *own])))
    devices = run.config["trainer"]["devices"]
    launcher = LauncherSettings(parallel=1, devices_per_run=devices if devices != "auto" else 1)
    code = go(Sweep(run.study.sweep, run.folder.parent, (run,), launcher), extend=True)
    if code == 0:
        print(f"weights: {run.folder / WEIGHTS}")
    return code


def evaluate(
    folder: Path,
    *,
    unseal_test: Path | bool | None = None,
    reason: str = "",
    unfinished: bool = False,
    store: Path | None = None,
    head: str = "",
    figures: bool = False,
) -> int:
    """Tables, figures and report from the prediction tables.

    Args:
        folder: Sweep folder, as runs/demo.
        unseal_test: Open the test set with the labels of this store, by default the runs' own;
            each opening is recorded.
        reason: Why it is opened.
        unfinished: Open it although runs are not done, which is recorded.
        store: The runs' store, if it was moved: its ledger tells of openings by other sweeps.
        head: A head of that ledger that you lodged elsewhere: it must be in it still.
        figures: Write figures as PDF and PNG, too, as journals want them.
    """
    import evaluation

    store = unseal_test if isinstance(unseal_test, Path) else store
    if unseal_test is not None:
        opened = store or _store_of(folder)
        evaluation.unseal(folder, opened, reason=reason, unfinished=unfinished)
    return _print_evaluation(folder, store=store, head=head, figures=figures)


def name_patients(store: Path, hashes: Sequence[str]) -> int:
    """Name the patients that hashes in logs and W&B stand for.

    Args:
        store: The store that the runs were made from.
        hashes: 16 hexadecimal digits each.
    """
    from datamodules.store.pseudonyms import Pseudonyms

    patients = Pseudonyms(store)
    for patient_hash in hashes:
        print(f"{patient_hash} {patients.find(patient_hash)}")
    return 0


def _store_of(folder: Path) -> Path:
    """The store that the runs of a sweep were made from, as the sweep names it."""
    from evaluation.records.holdout import store_of
    from evaluation.records.listing import read_listing
    from experiments.errors import ConfigError

    if store := store_of(folder, read_listing(folder)):
        return store
    raise ConfigError(
        f"store of the runs must be where the sweep was run on it, got none ({folder}). Give the "
        "store: --unseal-test STORE."
    )


def _print_evaluation(
    folder: Path, *, store: Path | None = None, head: str = "", figures: bool = False
) -> int:
    import evaluation
    from evaluation.remembered import remember
    from experiments.processes import require_address_space

    require_address_space(2.0)
    result = evaluation.evaluate(folder, store=store, head=head, figures=figures)
    text = evaluation.render(result)
    remember(result, text)
    print(text)
    return result.exit_code

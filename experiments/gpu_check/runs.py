"""Steps that start runs as users do: by the command line, as processes of their own."""

import os
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import torch
from torch.multiprocessing.spawn import spawn

from datamodules.ingest.prepare import prepare
from datamodules.phantom.make import PhantomPreset, make_phantom
from datamodules.store.splits import make_split
from experiments.gpu_check.step import FailedError, SkipError, Where
from experiments.run_folder.status import read_status

ARCHITECTURES = ("resnet", "densenet", "inception", "mvit", "swin")
_ROOT = Path(__file__).parents[2]
_WARNING = re.compile(r"^.*(?:Warning:|WARNING).*$", re.MULTILINE)


def store_of(where: Where) -> Path:
    """A store of 30 phantom patients (12 where the script itself is tried), made once."""
    store, count = where.folder / "store", 30 if where.is_full else 12
    if not (store / "splits").is_dir():
        preset = PhantomPreset(
            patients=count,
            positives=count // 2,
            image_auc=0.9,
            video_auc=0.95,
            clip_seconds=(6.0, 8.0),
            fps=(8, 10),
            clip_size=(256, 192),
            image_size=(256, 192),
            depth_mm=26.0,
            clip_depth_mm=26.0,
            time_scale=0.15,
            repeat_share=0.2,
        )
        cohort = make_phantom(where.folder / "phantom", seed=1, preset=preset, progress=False)
        prepare(cohort, store, canvas=256 if where.is_full else 64, as_is=True, progress=False)
        make_split(store, num_folds=2)
    return store


def settings_of(where: Where) -> list[str]:
    """What every run of the check is given: no downloads, no account, the device."""
    settings = [
        "study.image_encoder.init_args.pretrained=false",
        "study.video_encoder.init_args.pretrained=false",
        f"store={store_of(where)}",
        f"runs={where.folder / 'runs'}",
        "wandb=false",
    ]
    return settings if where.is_full else [*settings, "size=light", "trainer.accelerator=cpu"]


def study(where: Where) -> None:
    """The whole study in small: every cell trains, scores and says nothing unexpected."""
    profile = "study" if where.is_full else "demo"
    some = [] if where.is_full else ["architecture=resnet", "matmul_precision=highest"]
    begun = time.perf_counter()
    ended = _ceus(
        where, "sweep", "study", *settings_of(where), *some, "fold=0", "seed=0",
        f"profile={profile}", "trainer.max_epochs=2", "launcher.runs_per_device=2",
    )  # fmt: skip
    folders = sorted(path.parent for path in (where.folder / "runs").glob("study/*/config.yaml"))
    states = {folder.name: read_status(folder) for folder in folders}
    tables = [folder / "predictions.parquet" for folder in folders]
    finite = all(
        pd.read_parquet(path)["logit"].abs().lt(float("inf")).all()
        for path in tables
        if path.is_file()
    )
    warnings = {
        line.strip()[:300]
        for folder in folders
        for log in folder.glob("log*.txt")
        for line in _WARNING.findall(log.read_text(errors="replace"))
    }
    where.tell(
        seconds_of_runs=round(time.perf_counter() - begun, 1),
        runs={name: [s.state, s.reason, round(s.seconds, 1)] for name, s in states.items()},
        warnings=sorted(warnings),
    )
    done = sum(status.state == "done" for status in states.values())
    expected = 15 if where.is_full else 3
    if done != expected or not finite:
        raise FailedError(
            f"{done} of {expected} runs done, logits {'finite' if finite else 'not all finite'} "
            f"(exit code {ended.returncode}: {ended.stdout[-300:]!r})"
        )
    if warnings:
        raise FailedError(f"{len(warnings)} unexpected warnings, first: {min(warnings)}")


def memory(where: Where) -> None:
    """Too little memory: the batch halves, or the setting is named where that is other work."""
    if not where.is_full:
        raise SkipError("memory of a device is what it is about")
    total = torch.cuda.get_device_properties(0).total_memory
    told = {}
    for name, gigabytes, more in (("swin", 6, []), ("densenet", 3, ["freeze_batch_norm=false"])):
        limit = f"per_process_memory_fraction:{gigabytes * 1e9 / total:.5f}"
        folder = _fit(
            where, f"architecture={name}", "modality=video", "profile=study", "batch_size=16",
            "finetune=full", "trainer.max_epochs=1", f"sweep=memory-{name}", *more,
            environment={"PYTORCH_CUDA_ALLOC_CONF": limit, "PYTORCH_ALLOC_CONF": limit},
        )  # fmt: skip
        status = read_status(folder)
        told[name] = {
            "limit_gb": gigabytes, "state": status.state, "halvings": status.halvings,
            "reason": status.reason, "note": status.note,
        }  # fmt: skip
        where.tell(**told)
    if not (told["swin"]["state"] == "done" and told["swin"]["halvings"]):
        raise FailedError(f"swin did not go on with half the batch: {told['swin']}")
    if "study.batch_size" not in str(told["densenet"]["reason"]):
        raise FailedError(f"densenet did not name the setting: {told['densenet']}")


def resume(where: Where) -> None:
    """Killed amid an epoch and started again, a run ends as if nothing had been."""
    settings = [
        "architecture=resnet", "modality=image",
        f"profile={'study' if where.is_full else 'demo'}",
        "finetune=full", "selection=ema", "ema_decay=0.9", "freeze_epochs=1", "last_every=1",
        "trainer.max_epochs=8", "batch_size=2", "sweep=resume",
    ]  # fmt: skip
    command = [sys.executable, "-P", "-m", "experiments", "fit", *settings, *settings_of(where)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    before = None
    while process.poll() is None:
        folder = _folder(where, "resume")
        before = read_status(folder) if folder else None
        if before and before.epoch >= 2:
            process.kill()  # and with it, by SIGKILL, the run
            break
        time.sleep(0.05)
    process.wait()
    time.sleep(0.5)
    folder = _fit(where, *settings)
    after = read_status(folder)
    where.tell(killed_after_epoch=before.epoch if before else None, resumed=after.resumed,
               run=after.state, attempts=after.attempts, why=after.reason)  # fmt: skip
    if before is None or before.state == "done":
        raise FailedError("the run ended before it could be killed")
    if after.state != "done" or after.attempts < 2 or after.resumed < 1:
        raise FailedError(f"it did not go on: {after}")


def nccl(where: Where) -> None:
    """A sum over processes, one a device."""
    backend = "nccl" if where.is_full else "gloo"
    devices = min(2, torch.cuda.device_count()) if where.is_full else 2
    for count in range(1, devices + 1):
        begun = time.perf_counter()
        spawn(  # type: ignore[no-untyped-call]
            _sum_once, (count, backend, where.folder), nprocs=count
        )
        where.tell(**{f"seconds_{count}": round(time.perf_counter() - begun, 1)})
    if devices < 2:
        where.tell(two="one GPU only: two processes were not tried")


def tests(where: Where) -> None:
    """The tests that are marked as needing a device."""
    if find_spec("pytest") is None:
        raise SkipError("pytest is not installed")
    if not (_ROOT / "tests").is_dir():
        raise SkipError("the tests are in a checkout only")
    marker = "gpu" if where.is_full else "gpu and not gpu"
    command = [sys.executable, "-m", "pytest", "-m", marker, "-q", "-p", "no:cacheprovider"]
    command += ["tests/datamodules/store", "tests/experiments/training/test_ranks.py"]
    done = subprocess.run(command, cwd=_ROOT, capture_output=True, text=True, check=False)
    told = done.stdout.strip().splitlines()
    where.tell(summary=told[-1] if told else "", skipped=[x for x in told if x.startswith("SKIP")])
    if done.returncode not in (0, 5):  # 5: none was collected
        raise FailedError(done.stdout[-1500:])


def _sum_once(rank: int, count: int, backend: str, folder: Path) -> None:
    from torch import distributed

    meeting = f"file://{folder}/meet-{count}"
    distributed.init_process_group(backend, init_method=meeting, rank=rank, world_size=count)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    value = torch.full((1 << 20,), rank + 1.0, device=device)
    for _ in range(3):
        distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    if value.mean().item() != count:
        raise FailedError(f"{count} processes gave {value.mean().item()}")
    distributed.destroy_process_group()


def _fit(where: Where, *settings: str, environment: dict[str, str] | None = None) -> Path:
    ended = _ceus(where, "fit", *settings, *settings_of(where), environment=environment)
    name = next(s.removeprefix("sweep=") for s in settings if s.startswith("sweep="))
    folder = _folder(where, name)
    if folder is None:
        raise FailedError(f"no run was made: {ended.stdout[-500:]}")
    return folder


def _folder(where: Where, sweep: str) -> Path | None:
    return next((p.parent for p in (where.folder / "runs" / sweep).glob("*/config.yaml")), None)


def _ceus(
    where: Where, *arguments: str, environment: dict[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "experiments", *arguments],
        cwd=where.folder,
        env=os.environ | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )

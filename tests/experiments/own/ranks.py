"""Real processes of a Lightning run, forked from one that has imported everything once.

What `torchrun` does: each process has its rank and the address of the first in its environment.
"""

import json
import os
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.processes import warm_server


def on_ranks(
    work: Callable[..., None], *arguments: Any, world: int, folder: Path, seconds: float = 100
) -> None:
    """Runs `work(*arguments)` in `world` processes; raises what they wrote if one of them fails.

    A process that is not done after `seconds` is killed: ranks that wait for each other fail.
    """
    context = warm_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    logs = [folder / f"rank{rank}-of-{world}.txt" for rank in range(world)]
    processes = [
        context.Process(target=_rank, args=(work, arguments, rank, world, port, logs[rank]))
        for rank in range(world)
    ]
    for process in processes:
        process.start()
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.1, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    if any(codes):
        raise AssertionError("\n".join(log.read_text() for log in logs if log.is_file()))
    assert None not in codes, f"ranks waited for each other: {codes}"


def _rank(
    work: Callable[..., None],
    arguments: tuple[Any, ...],
    rank: int,
    world: int,
    port: int,
    log: Path,
) -> None:
    if world > 1:
        os.environ |= {"LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "NODE_RANK": "0"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        work(*arguments)
    except BaseException:  # noqa: BLE001  the last frame of the process
        log.write_text(f"rank {rank}:\n{traceback.format_exc()}")
        os._exit(1)
    os._exit(0)


def evaluate(configs: dict[str, Any], out: Path) -> None:
    """Validates and predicts with the initial weights of each configuration."""
    from experiments.training.build import build
    from experiments.training.predict import predict

    for name, config in configs.items():
        trainer, model, data = build(config, root=out)
        (figures,) = trainer.validate(model, datamodule=data, verbose=False)
        table = predict(trainer, model, data, None)
        if trainer.is_global_zero:
            (out / f"{name}.json").write_text(json.dumps(figures))
            table.to_parquet(out / f"{name}.parquet")


def train(config: dict[str, Any], out: Path) -> None:
    """Fits a configuration and writes the loss of each step, the mean over all processes."""
    from lightning import Callback

    from experiments.config.study import study_of
    from experiments.training.build import build, protocol_callbacks

    losses: list[float] = []

    class Note(Callback):
        def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
            loss = trainer.strategy.reduce(outputs["loss"].detach().clone(), reduce_op="mean")
            losses.append(float(loss))

    study = study_of(config["study"])
    callbacks = [c for c in protocol_callbacks(study, out) if "Checkpoint" not in type(c).__name__]
    trainer, model, data = build(config, callbacks=[*callbacks, Note()], root=out)
    trainer.fit(model, datamodule=data)
    # Every process must hold the same weights.
    mine = torch.cat([p.detach().double().flatten() for p in model.parameters()])
    drift = (trainer.strategy.reduce(mine.clone(), reduce_op="mean") - mine).abs().max()
    if trainer.is_global_zero:
        result = {"losses": losses, "drift": float(drift), "weights": mine.tolist()}
        (out / "trained.json").write_text(json.dumps(result))

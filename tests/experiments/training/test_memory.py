"""Out of memory: half the micro-batch where that is the same work, else what to change."""

import json
from collections.abc import Callable

import pandas as pd
import pytest
import torch

from experiments.config.run import Run
from experiments.errors import ConfigError
from experiments.run_folder.status import read_status
from experiments.training.memory import halved, is_out_of_memory

GREEDY = "study.image_encoder={class_path: own_package.Greedy, init_args: {most: 2, norm: %s}}"


def test_a_run_short_of_memory_goes_on_with_half_the_micro_batch(
    make: Callable[..., Run], start: Callable[[Run], int]
) -> None:
    run = make("batch_size=8", "eval_batch_size=2", "trainer.max_epochs=1", GREEDY % "false")
    assert start(run) == 0
    status = read_status(run.folder)
    assert (status.attempts, status.halvings) == (3, 2)
    assert "micro-batch 2 x 4, not 8 x 1" in str(status.note)
    reasons = [entry["reason"] for entry in status.history]
    assert reasons[0] == "out of memory at 8 x 1 rows; goes on with 4 x 2"
    assert json.loads((run.folder / "environment.json").read_text())["micro_batch"] == "2 x 4"
    assert set(pd.read_parquet(run.folder / "predictions.parquet")["run_id"]) == {run.run_id}


def test_a_network_with_batch_statistics_is_not_halved_but_the_setting_named(
    make: Callable[..., Run], start: Callable[[Run], int]
) -> None:
    run = make("batch_size=8", "trainer.max_epochs=1", GREEDY % "true")
    assert start(run) == 2
    status = read_status(run.folder)
    assert (status.state, status.attempts, status.halvings) == ("failed", 1, 0)
    assert "device memory must suffice for a micro-batch of 8 x 1" in str(status.reason)
    assert "batch statistics (encoder.norm (BatchNorm1d))" in str(status.reason)
    assert "Lower study.batch_size" in str(status.reason)


def test_halving_keeps_the_effective_batch() -> None:
    config = {
        "data": {"init_args": {"batch_size": 8, "eval_batch_size": 3}},
        "trainer": {"accumulate_grad_batches": 3},
    }
    smaller = halved(config, 2)
    assert smaller["data"]["init_args"] == {"batch_size": 2, "eval_batch_size": 1}
    assert smaller["trainer"]["accumulate_grad_batches"] == 12
    assert config["data"]["init_args"]["batch_size"] == 8
    with pytest.raises(ConfigError, match="batch_size must be a multiple of 16 to be halved"):
        halved(config, 4)


NCCL = (
    "NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled cuda error (run with NCCL_DEBUG=INFO for "
    "details), NCCL version 2.28.9\nncclUnhandledCudaError: Call to CUDA function failed.\n"
    "Last error:\nCuda failure 2 'out of memory'"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has"),
        torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"),
        torch.distributed.DistBackendError(NCCL),
        torch.distributed.DistBackendError("NCCL error: Failed to CUDA calloc, out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling"),
        RuntimeError("HIP error: out of memory"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:24]}",
)
def test_every_library_of_a_device_says_it_in_its_words(error: Exception) -> None:
    assert is_out_of_memory(error)
    wrapper = RuntimeError("a wrapper")
    wrapper.__cause__ = error
    assert is_out_of_memory(wrapper)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("something else"),
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        torch.distributed.DistBackendError("NCCL error: remote process exited or network error"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError("out of memory"),
        ValueError("CUDA out of memory is what a user's own check may speak of"),
    ],
    ids=lambda error: f"{type(error).__name__} {str(error)[:24]}",
)
def test_other_faults_are_none_of_a_devices_memory(error: Exception) -> None:
    assert not is_out_of_memory(error)

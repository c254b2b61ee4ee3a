"""Tests see a GPU only where they were asked to."""

import os

import pytest
import torch

from tests.conftest import asks_for_devices


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("gpu", True),
        ("gpu and not chaos", True),
        ("", False),
        ("not chaos", False),
        ("not gpu", False),
        ("gpu or slurm", False),
        ("slurm", False),
    ],
)
def test_devices_are_shown_to_tests_of_devices_alone(expression: str, *, expected: bool) -> None:
    assert asks_for_devices(expression) is expected


def test_there_is_no_device_here() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert not torch.cuda.is_available()

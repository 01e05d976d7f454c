"""Weights of a transformer that are smaller than they were trained: what they go with, and what is refused."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from adaspa_jobs.catalog import ModelSpec
from adaspa_worker.offer import check
from adaspa_worker.source import ModelUnavailable
from pydantic import ValidationError
from tiny_wan import model_spec

TORCHAO = Path(sys.prefix) / "torchao"
"""Where `make setup` puts it: each process that finds it imports it with diffusers."""


def test_weights_in_int8() -> None:
    checks = Path(__file__).with_name("int8_checks.py")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", checks],
        env=os.environ | {"PYTHONPATH": str(TORCHAO)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(find_spec("torchao") is not None, reason="torchao is installed")
def test_int8_without_torchao_is_refused_before_a_worker_takes_a_job(tiny_pipeline: Path) -> None:
    spec = ModelSpec.model_validate(model_spec(tiny_pipeline, memory={"quantization": "int8"}))
    with pytest.raises(ModelUnavailable, match=r"tiny: memory.quantization: needs torchao, .*serve\[quantization\]"):
        check(spec, tiny_pipeline)


@pytest.mark.parametrize(
    ("memory", "changes", "message"),
    [
        ({"quantization": "int8"}, {"compile": True}, "quantization: cannot be combined with compile; allowed: null"),
        ({"quantization": "int8"}, {"gpus": 2}, "quantization: cannot be combined with several gpus; allowed: null"),
        (
            {"quantization": "int8", "storage_dtype": "float8_e4m3fn"},
            {},
            "quantization: cannot be combined with storage_dtype; allowed: one of them",
        ),
        ({"quantization": "int4"}, {}, "Input should be 'int8'"),
    ],
)
def test_what_does_not_go_together_is_refused_in_the_catalog(
    memory: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSpec.model_validate(model_spec("unused", memory=memory, **changes))

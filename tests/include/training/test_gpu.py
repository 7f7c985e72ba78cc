"""What must be the same on a GPU: a resumed training, one in bf16, and the exported graph in onnxruntime.

`make bench-gpu` writes the figures into benchmarks/gpu.json. Without a CUDA device each check runs on the processor
alone, and its part for the GPU is skipped by name.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from include.compression.graphs import score
from include.lake.storage import Storage
from include.training.checkpoints import Checkpoints
from include.training.export import export_onnx
from include.training.fit import InterruptedTrainingError, fit
from include.training.ranks import Ranks
from include.training.rows import load_rows
from tests.gpu import DEVICES, record
from tests.snapshots import SPEC, small_job, small_table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import onnxruntime

    from include.training.fit import Fitted
    from include.training.rows import Rows

SIZES: dict[str, dict[str, Any]] = {
    "cpu": {"num_rows": 1500, "batch_size": 256, "hidden": [32, 16]},
    "cuda": {"num_rows": 200_000, "batch_size": 8192, "hidden": [512, 256]},
}
MAX_LOSS_DIFFERENCE = 0.01
"""Of the held-out loss, bf16 against fp32."""
MAX_DIFFERENCE = 1e-4
"""Of two probabilities, onnxruntime's CUDA against its CPU provider, in fp32."""
PROVIDERS: dict[str, Any] = {
    "cpu": "CPUExecutionProvider",
    "cuda": ("CUDAExecutionProvider", {"use_tf32": "0"}),  # tf32 keeps 10 bits of each factor
}


class Trainings:
    """Trainings of one table on one device."""

    def __init__(self, storage: Storage, device: torch.device) -> None:
        size = dict(SIZES[device.type])
        self.table = small_table(size.pop("num_rows"))
        self.storage, self.size, self.device = storage, size, device

    def fit(self, *, should_stop: Callable[[], bool] = lambda: False, **params: Any) -> tuple[Fitted, Rows]:
        """Train, from the newest checkpoint if there is one."""
        given = {"max_epochs": 3, "patience_epochs": 3, **self.size, **params}
        job = small_job(self.storage, table=self.table, spec=SPEC, **given)
        rows, checkpoints = load_rows(job, storage=self.storage), Checkpoints.of_job(job, storage=self.storage)
        ranks = Ranks(device=self.device)
        return fit(job, rows, checkpoints=checkpoints, ranks=ranks, should_stop=should_stop, say=print), rows


def loss(fitted: Fitted) -> float:
    return fitted.epochs[fitted.best_epoch].validation_loss


@pytest.mark.parametrize("device", DEVICES)
def test_a_resumed_training_ends_as_an_undisturbed_one(storage: Storage, tmp_path: Path, device: torch.device) -> None:
    wanted, _ = Trainings(Storage(root=str(tmp_path / "undisturbed")), device).fit()
    disturbed, left = Trainings(storage, device), iter([False] * 7)
    with pytest.raises(InterruptedTrainingError):
        disturbed.fit(should_stop=lambda: next(left, True))
    found, _ = disturbed.fit()
    pairs = list(zip(found.network.parameters(), wanted.network.parameters(), strict=True))
    worst = max(float((ours - theirs).detach().abs().max()) for ours, theirs in pairs)
    record("resume", {"same_bits": worst == 0.0, "max_weight_difference": worst}, device=device)
    assert worst <= (0.0 if device.type == "cpu" else 1e-5)
    assert loss(found) == pytest.approx(loss(wanted), abs=0.0 if device.type == "cpu" else 1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_bf16_learns_what_fp32_learns(storage: Storage, device: torch.device) -> None:
    trainings = Trainings(storage, device)
    found = {name: loss(trainings.fit(precision=name)[0]) for name in ("fp32", "bf16")}
    record("precision", {f"{name}_held_out_loss": round(value, 6) for name, value in found.items()}, device=device)
    assert found["bf16"] == pytest.approx(found["fp32"], abs=MAX_LOSS_DIFFERENCE)


def opened(graph: bytes, device: torch.device) -> onnxruntime.InferenceSession:
    """Return a session of onnxruntime that computes on a device."""
    import onnxruntime

    provider = PROVIDERS[device.type]
    name = provider if isinstance(provider, str) else provider[0]
    if device.type == "cuda":
        if name not in onnxruntime.get_available_providers():
            pytest.skip("needs onnxruntime with its CUDA provider")
        onnxruntime.preload_dlls()  # those that torch's wheels bring
    session = onnxruntime.InferenceSession(
        graph, providers=[provider, "CPUExecutionProvider"][: 1 + (device == "cuda")]
    )
    assert session.get_providers()[0] == name, "onnxruntime fell back: its log says which library it did not find"
    return session


def median_us(run: Callable[[], object]) -> float:
    """Return the median time of a call, in microseconds."""
    took = []
    for _ in range(50):
        since = time.perf_counter()
        run()
        took.append(time.perf_counter() - since)
    return round(1e6 * float(np.median(took)), 1)


@pytest.mark.parametrize("device", DEVICES)
def test_onnxruntime_answers_the_same_on_each_device(storage: Storage, device: torch.device) -> None:
    fitted, rows = Trainings(storage, device).fit()
    inputs = {"categorical_BC": rows.categorical_BC[:4096], "numeric_BN": rows.numeric_BN[:4096]}
    graph = export_onnx(fitted.network.cpu(), task=rows.task, **{name: values[:64] for name, values in inputs.items()})
    cpu, there = opened(graph, torch.device("cpu")), opened(graph, device)
    worst = float(np.max(np.abs(score(there, **inputs) - score(cpu, **inputs))))
    figures: dict[str, object] = {"max_difference": worst}
    for num_rows in (1, 32, 4096):
        some = {name: values[:num_rows] for name, values in inputs.items()}
        for name, session in {"cpu": cpu, device.type: there}.items():
            figures[f"{name}_{num_rows}_rows_us"] = median_us(lambda: score(session, **some))  # noqa: B023 - at once
    record("onnxruntime", figures, device=device)
    assert worst <= MAX_DIFFERENCE

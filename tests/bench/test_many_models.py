"""What a thousand models cost: `make bench-models` measures it for real; each test run holds the cost of one."""

from __future__ import annotations

import importlib.util
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from operators.model_dags import build_model_dags
from tests.bench.many_models import REPO, STAGES, TEXT, parsing, to_json, write_model, write_models
from tests.cpu_speed import slowdown

if TYPE_CHECKING:
    from types import ModuleType

NUM_MODELS = int(os.environ.get("TRADEWIND_BENCH_MODELS", "1000"))
WRITE_TO = os.environ.get("TRADEWIND_BENCH_TO")
MAX_FIRST_PASS_S = 60.0
MAX_NOTICED_S = 60.0
"""Half of the interval at which `make up` has files parsed in any case."""
MAX_CPU_S_PER_MODEL = 0.04
"""For parsing and serializing; a thousand models then take 20 s of each of two cores, beside what writes them down."""


def stage_module(stage: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(f"{stage}_of_many", REPO / "dags" / f"{stage}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_a_model_costs_little_to_parse(tmp_path: Path) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    num_models = 20
    modules = {stage: stage_module(stage) for stage in STAGES}
    spent_s = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        write_models(folder, num_models)
        started_s = time.process_time()
        for stage, module in modules.items():
            form = getattr(module, "form", None)
            dags = build_model_dags(module.build, stage=stage, form=form, models_dir=folder)
            assert len(dags) == num_models
            for dag in dags.values():
                DagSerialization.to_dict(dag)
        spent_s.append((time.process_time() - started_s) / num_models)
    limit_s = MAX_CPU_S_PER_MODEL * slowdown()
    assert min(spent_s) < limit_s, f"{spent_s} s of CPU for all {len(STAGES)} Dags of one model"


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_thousand_models() -> None:
    num_dags = NUM_MODELS * len(STAGES)
    with parsing(NUM_MODELS) as parsed:
        parsed.wait_until(lambda: parsed.count() == num_dags, timeout_s=900)
        first_s, cpu_s = time.monotonic() - parsed.started_s, parsed.cpu_s()
        assert parsed.errors() == {}

        # A change is noticed without waiting for the next pass.
        parsed.wait_until_idle()
        changed = f"model_{NUM_MODELS // 2:04d}"
        write_model(parsed.folder, changed, TEXT.replace("owner: ml-platform", "owner: somebody-else"))
        changed_s = parsed.wait_until(
            lambda: {parsed.owner_of(f"{stage}_{changed}") for stage in STAGES} == {"somebody-else"}, timeout_s=600
        )

        # A broken one hides no other, and is shown.
        parsed.wait_until_idle()
        write_model(parsed.folder, "model_0007", TEXT.replace("max_epochs", "max_epoch"))
        broken_s = parsed.wait_until(lambda: len(parsed.errors()) == 1, timeout_s=600)
        assert all("model_0007/model.yaml cannot be used" in error for error in parsed.errors().values())
        assert parsed.active() >= num_dags - len(STAGES)
    found = {
        "num_models": NUM_MODELS,
        "num_dags": num_dags,
        "num_cores": 2,
        "first_pass_s": round(first_s, 1),
        "first_pass_cpu_s": {name: round(seconds, 1) for name, seconds in cpu_s.items()},
        "change_noticed_s": round(changed_s, 1),
        "broken_spec_shown_s": round(broken_s, 1),
        "load_average_at_end": round(os.getloadavg()[0], 1),
    }
    if WRITE_TO:
        to_json(found, Path(WRITE_TO))
    assert first_s < MAX_FIRST_PASS_S, found
    assert changed_s < MAX_NOTICED_S, found
    assert broken_s < MAX_NOTICED_S, found

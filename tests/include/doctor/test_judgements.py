from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from include.doctor import machine
from include.doctor.code import check_specs, judge_commit, judge_lock, judge_packages
from include.doctor.deployment import judge_slack, worst
from include.doctor.finding import Finding, Level, fail, ok, warn
from include.runtime.home import MIN_FREE_BYTES
from include.spec import MODELS_DIR

NOW = datetime(2013, 8, 1, tzinfo=UTC)
GIB = 1024**3
HERE = Path("/")


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (machine.judge_python((3, 11, 0)), Level.OK),
        (machine.judge_python((3, 12, 0)), Level.FAIL),
        (machine.judge_platform("Linux", "x86_64"), Level.OK),
        (machine.judge_platform("Darwin", "arm64"), Level.FAIL),
        (machine.judge_cores(2), Level.OK),
        (machine.judge_cores(1), Level.WARN),
        (machine.judge_memory(4 * GIB), Level.OK),
        (machine.judge_memory(4 * GIB - 1), Level.WARN),
        (machine.judge_memory(None), Level.WARN),
        (machine.judge_disk(3 * MIN_FREE_BYTES, at=HERE), Level.OK),
        (machine.judge_disk(3 * MIN_FREE_BYTES - 1, at=HERE), Level.WARN),
        (machine.judge_disk(MIN_FREE_BYTES, at=HERE), Level.WARN),
        (machine.judge_disk(MIN_FREE_BYTES - 1, at=HERE), Level.FAIL),
        (machine.judge_clock(NOW, newest_file=NOW), Level.OK),
        (machine.judge_clock(NOW, newest_file=NOW + timedelta(seconds=1)), Level.FAIL),
        (machine.judge_clock(NOW, newest_file=None), Level.OK),
        (judge_lock(b"a==1", stamp=json.dumps({"requirements.txt": hashlib.sha256(b"a==1").hexdigest()})), Level.OK),
        (judge_lock(b"a==1", stamp="{}"), Level.FAIL),
        (judge_packages("a-b[x]==1.0 ; y\n    # via c\n", installed={"A_B": "1.0"}), Level.OK),
        (judge_packages("a==1.0\n", installed={}), Level.FAIL),
        (judge_commit("0a1b2c"), Level.OK),
        (judge_commit("0a1b2c-dirty-3d4e"), Level.WARN),
        (judge_commit("no-git-5f60"), Level.WARN),
        (judge_slack(has_connection=True), Level.OK),
        (judge_slack(has_connection=False), Level.OK),
        (judge_slack(has_connection=None), Level.OK),
    ],
)
def test_each_side_of_each_limit(found: Finding, level: Level) -> None:
    assert found.level is level
    assert (found.remedy == "") is (level is Level.OK)


@pytest.mark.parametrize(("limit", "expected"), [("max", 2048), ("1024\n", 1024), ("4096\n", 2048), ("", 2048)])
def test_a_container_may_have_less_memory_than_its_machine(limit: str, expected: int) -> None:
    assert machine.available_memory_bytes("MemAvailable: 2 kB\n", limit) == expected
    assert machine.available_memory_bytes("", limit) is None


def test_this_machine_is_checked_without_a_deployment(tmp_path: Path) -> None:
    names = [found.name for found in machine.check_machine(tmp_path / "none" / "yet")]

    assert names == ["python", "platform", "cores", "memory", "disk", "clock"]


def test_variables_are_named_and_their_values_are_not() -> None:
    found = machine.judge_environment({"TRADEWIND_DATABASE_URL": "postgresql://u:secret@h/d", "HOME": "/root"})

    assert found.said == "TRADEWIND_DATABASE_URL"


def test_a_broken_spec_is_named_beside_the_good_ones(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    text = (MODELS_DIR / "flight_delays" / "model.yaml").read_text()
    (tmp_path / "good" / "model.yaml").write_text(text.replace("name: flight_delays", "name: good", 1))
    (tmp_path / "bad" / "model.yaml").write_text(text.replace("owner:", "ownr:", 1))

    bad, good = check_specs(tmp_path)

    assert (bad.name, bad.level, bad.remedy) == ("model bad", Level.FAIL, "./tradewind check bad")
    assert "Did you mean 'owner'?" in bad.said
    assert (good.name, good.level) == ("model good", Level.OK)


def test_a_folder_without_models_is_said(tmp_path: Path) -> None:
    assert [found.level for found in check_specs(tmp_path)] == [Level.WARN]


def test_the_worst_finding_counts() -> None:
    found = [ok("a", "x"), warn("b", "x", "y")]

    assert worst([]) is Level.OK
    assert worst(found) is Level.WARN
    assert worst([*found, fail("c", "x", "y"), ok("d", "x")]) is Level.FAIL

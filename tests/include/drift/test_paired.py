"""Late labels become evidence of a rollout: joined by hand, then through the model server, which outlives a kill -9."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from include.drift.paired import compare_losses, post_label_evidence
from include.lake.storage import Storage
from include.rollout.decision import LabelEvidence, sum_labels
from include.rollout.local import LocalTarget
from include.spec import load_spec
from tests.tiny_models import tiny_package

if TYPE_CHECKING:
    from pathlib import Path

    from tests.running import RunningModelServer

SPEC = load_spec("flight_delays")
EARLY = LabelEvidence(version="2", champion="1", num=300, total=3.0, total_squares=9.0)


def test_only_labelled_examples_that_both_scored_are_compared() -> None:
    rows = [
        ("a", "1", True, 0.5),
        ("a", "2", True, 0.25),
        ("b", "1", False, 0.5),
        ("b", "2", False, 0.5),
        ("c", "2", True, 0.1),  # the champion did not score it
        ("d", "1", None, 0.5),
        ("d", "2", None, 0.9),  # nobody knows yet
        ("e", "1", True, 0.5),
        ("e", "3", True, 0.9),  # another version
    ]
    names = ("example_id", "model_version", "label", "probability")
    joined = pa.table({name: [row[at] for row in rows] for at, name in enumerate(names)})
    found = compare_losses(joined, spec=SPEC, version="2", champion="1")
    worse = float(np.log(2))  # -ln(0.25) + ln(0.5)
    assert (found.version, found.champion, found.num) == ("2", "1", 2)
    assert (found.total, found.total_squares) == pytest.approx((worse, worse**2), abs=1e-6)
    assert compare_losses(joined, spec=SPEC, version="7", champion="1").num == 0


def test_partitions_add_up() -> None:
    assert sum_labels([]) is None
    both = sum_labels([EARLY, LabelEvidence(version="2", champion="1", num=100, total=1.0, total_squares=4.0)])
    assert both == LabelEvidence(version="2", champion="1", num=400, total=4.0, total_squares=13.0)
    assert (both.mean, both.deviation) == pytest.approx((0.01, np.sqrt(13 / 400 - 1e-4)))


def test_a_partition_counts_once_and_for_its_versions_only(model_server: RunningModelServer, tmp_path: Path) -> None:
    client, target = model_server.client, LocalTarget(client=model_server.client)
    for version in ("1", "2", "3"):
        package = tiny_package(tmp_path / version, bias=float(version))
        client.load(model=SPEC.name, version=version, uri=package.uri, digest=package.digest)
    assert target.read(model=SPEC.name).labels is None
    later = LabelEvidence(version="2", champion="1", num=100, total=1.0, total_squares=4.0)
    for evidence, partition in ((EARLY, "2013-07"), (EARLY, "2013-07"), (later, "2013-08")):
        client.set_labels(model=SPEC.name, partition=partition, evidence=evidence)
    model_server.kill()
    model_server.start()
    assert target.read(model=SPEC.name).labels == sum_labels([EARLY, later])
    other = LabelEvidence(version="3", champion="1", num=1, total=0.5, total_squares=0.25)
    client.set_labels(model=SPEC.name, partition="2013-07", evidence=other)
    assert target.read(model=SPEC.name).labels == other


@pytest.mark.parametrize("is_rolled_back", [False, True])
def test_labels_of_a_version_that_was_rolled_back_meanwhile_are_told_to_nobody(
    model_server: RunningModelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, is_rolled_back: bool
) -> None:
    client = model_server.client
    for version in ("1", "2"):
        package = tiny_package(tmp_path / version, bias=float(version))
        client.load(model=SPEC.name, version=version, uri=package.uri, digest=package.digest)
    client.set_routes(model=SPEC.name, champion="1", shadow="2")

    def join(**_of: object) -> pa.Table:
        if is_rolled_back:
            client.set_routes(model=SPEC.name, champion="1")
            client.unload(model=SPEC.name, version="2")
        rows = {"example_id": ["a", "a"], "model_version": ["1", "2"], "label": [True] * 2, "probability": [0.5, 0.25]}
        return pa.table(rows)

    monkeypatch.setattr("include.drift.paired.join_labels", join)
    storage = Storage(root=str(tmp_path))
    told = post_label_evidence(spec=SPEC, storage=storage, partition="2013-07", client=client)
    assert (told is None) == is_rolled_back
    assert LocalTarget(client=client).read(model=SPEC.name).labels == told

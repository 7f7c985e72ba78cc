from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from include.drift.inputs import InputDrift, measure_inputs, prediction_psi
from include.drift.reference import Reference, make_reference, parse_reference
from include.spec import DriftSpec, load_spec

NUM_ROWS = 5000
SPEC = load_spec("flight_delays")


def rows(seed: int, **changed: object) -> pa.Table:
    rng = np.random.default_rng(seed)
    columns: dict[str, object] = {name: rng.normal(size=NUM_ROWS) for name in SPEC.features.numeric}
    columns |= {name: rng.choice(["a", "b", "c"], size=NUM_ROWS) for name in SPEC.features.categorical}
    return pa.table(columns | changed)


def reference_of(table: pa.Table) -> Reference:
    scores = np.random.default_rng(3).random(table.num_rows)
    return parse_reference(json.dumps(make_reference(table=table, predicted_BK=scores, spec=SPEC)))


def drift_of(name: str, *, trained: pa.Table, served: pa.Table) -> InputDrift:
    found = {item.name: item for item in measure_inputs(served=served, reference=reference_of(trained))}
    assert set(found) == {*SPEC.features.numeric, *SPEC.features.categorical}
    return found[name]


def test_rows_of_the_same_distribution_do_not_drift() -> None:
    for item in measure_inputs(served=rows(1), reference=reference_of(rows(0))):
        assert item.psi == pytest.approx(0, abs=0.02)
        assert not item.exceeds(DriftSpec())


def test_a_shifted_number_drifts_as_theory_says() -> None:
    temp = np.random.default_rng(5).normal(loc=1.0, size=NUM_ROWS)
    trained = rows(0)
    found = drift_of("temp", trained=trained, served=rows(1, temp=temp))
    # Symmetric relative entropy of two unit normals one apart is 1 nat; ten bins keep most of it.
    assert found.psi == pytest.approx(0.95, abs=0.1)
    exact = stats.ks_2samp(trained["temp"].to_numpy(), temp).statistic
    assert found.ks is not None
    assert exact - 0.01 <= found.ks <= exact + 1e-12
    assert found.js is not None
    assert 0.08 < found.js < 0.14
    assert found.exceeds(DriftSpec())


def test_a_new_category_counts_as_other() -> None:
    carrier = np.random.default_rng(5).choice(["a", "b", "c", "new"], size=NUM_ROWS)
    found = drift_of("carrier", trained=rows(0), served=rows(1, carrier=carrier))
    assert found.ks is None
    assert found.psi is not None
    assert found.psi > 0.2


def test_many_rare_categories_are_no_drift() -> None:
    rng = np.random.default_rng(5)
    trained, served = (rows(s, dest=rng.integers(0, 2000, size=NUM_ROWS).astype(str)) for s in (0, 1))
    assert drift_of("dest", trained=trained, served=served).psi == pytest.approx(0, abs=0.02)


def test_values_that_went_missing_are_drift_and_values_that_arrived_are_not() -> None:
    whole, holes = rows(0), rows(1, temp=pa.array(np.ones(NUM_ROWS), mask=np.arange(NUM_ROWS) % 5 == 0))
    same = rows(1, temp=pa.array(whole["temp"].to_numpy(), mask=np.arange(NUM_ROWS) % 5 == 0))
    went = drift_of("temp", trained=whole, served=same)
    assert (went.missing_frac, went.reference_missing_frac) == (0.2, 0.0)
    assert went.exceeds(DriftSpec(max_missing_increase_frac=0.19))
    assert not went.exceeds(DriftSpec(max_missing_increase_frac=0.2))
    arrived = drift_of("temp", trained=same, served=whole)
    assert not arrived.exceeds(DriftSpec(max_missing_increase_frac=0.0))
    assert drift_of("temp", trained=whole, served=holes).exceeds(DriftSpec(max_missing_increase_frac=1.0))


def test_an_input_without_values_has_no_distance() -> None:
    empty = pa.nulls(NUM_ROWS, pa.float64())
    nothing = pa.nulls(NUM_ROWS, pa.string())
    for trained, served in (
        (rows(0), rows(1, visib=empty, dest=nothing)),
        (rows(0, visib=empty, dest=nothing), rows(1)),
    ):
        for name in ("visib", "dest"):
            found = drift_of(name, trained=trained, served=served)
            assert (found.psi, found.js, found.ks) == (None, None, None)
            assert {found.missing_frac, found.reference_missing_frac} == {0.0, 1.0}


def test_limit_of_psi_is_exclusive() -> None:
    item = InputDrift(name="x", kind="numeric", psi=0.2, js=0, ks=0, missing_frac=0, reference_missing_frac=0)
    assert not item.exceeds(DriftSpec(max_input_psi=0.2))
    assert item.exceeds(DriftSpec(max_input_psi=0.19))


def test_scores_drift_against_the_scores_of_training() -> None:
    reference = reference_of(rows(0))
    rng = np.random.default_rng(9)
    assert prediction_psi(predicted_NK=rng.random(3000), reference=reference) < 0.02
    assert prediction_psi(predicted_NK=rng.random(3000) ** 2, reference=reference) > 0.2

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from include.drift.reference import CategoricalSketch, NumericSketch, make_reference, parse_reference
from include.errors import BadInputError, CorruptArtifactError
from include.spec import ModelSpec, load_spec

NUM_ROWS = 1000


@pytest.fixture
def spec() -> ModelSpec:
    return load_spec("flight_delays")


@pytest.fixture
def table(spec: ModelSpec) -> pa.Table:
    rng = np.random.default_rng(0)
    columns: dict[str, object] = {name: rng.normal(size=NUM_ROWS) for name in spec.features.numeric}
    columns |= {name: rng.choice(["a", "b", "c"], size=NUM_ROWS) for name in spec.features.categorical}
    columns["temp"] = pa.array(np.arange(NUM_ROWS) % 100, mask=np.arange(NUM_ROWS) < 10)
    columns["precip"] = np.where(np.arange(NUM_ROWS) < 950, 0.0, 1.0)
    columns["visib"] = np.full(NUM_ROWS, np.nan)
    columns["dest"] = pa.array([None, *["ORD"] * 599, *["MIA"] * 400])
    columns["label"] = np.arange(NUM_ROWS) % 4 == 0
    return pa.table(columns)


def test_reference_survives_json_and_counts_every_row(spec: ModelSpec, table: pa.Table) -> None:
    scores = np.linspace(0, 1, NUM_ROWS)
    reference = parse_reference(json.dumps(make_reference(table=table, predicted_BK=scores, spec=spec)))
    assert reference.num_rows == NUM_ROWS
    assert reference.baseline == pytest.approx(0.25)
    assert tuple(reference.numeric) == spec.features.numeric
    assert tuple(reference.categorical) == spec.features.categorical
    for sketch in (*reference.numeric.values(), *reference.outputs):
        assert sum(sketch.counts) + sketch.num_missing == NUM_ROWS
    for sketch in reference.categorical.values():
        assert sum(sketch.counts.values()) + sketch.other + sketch.num_missing == NUM_ROWS
    assert reference.categorical["dest"].counts == {"ORD": 599, "MIA": 400}
    assert reference.categorical["dest"].num_missing == 1
    assert reference.numeric["temp"].num_missing == 10
    assert reference.outputs[0].counts == (10,) * 100


def test_ties_stay_in_one_bin_and_a_column_without_values_has_one_empty_bin(spec: ModelSpec, table: pa.Table) -> None:
    reference = parse_reference(json.dumps(make_reference(table=table, predicted_BK=np.full(NUM_ROWS, 0.5), spec=spec)))
    assert reference.numeric["precip"].counts == (0, 950, 50)
    assert reference.numeric["visib"].counts == (0,)
    assert reference.numeric["visib"].num_missing == NUM_ROWS


def test_a_sketch_counts_other_values_over_its_own_bins(spec: ModelSpec, table: pa.Table) -> None:
    sketch = parse_reference(
        json.dumps(make_reference(table=table, predicted_BK=np.full(NUM_ROWS, 0.5), spec=spec))
    ).numeric["precip"]
    assert sketch.count(np.array([-1.0, 0.0, 0.5, 1.0, np.inf, np.nan])).tolist() == [1, 2, 2]


def test_labels_are_optional(spec: ModelSpec, table: pa.Table) -> None:
    made = make_reference(table=table.drop_columns("label"), predicted_BK=np.full(NUM_ROWS, 0.5), spec=spec)
    assert (made["baseline"], made["label"]) == (None, None)


def test_what_cannot_be_sketched_is_refused(spec: ModelSpec, table: pa.Table) -> None:
    with pytest.raises(BadInputError, match="1000 rows, 3 predictions"):
        make_reference(table=table, predicted_BK=np.array([0.1, 0.2, 0.3]), spec=spec)
    with pytest.raises(BadInputError, match=r"no column \['carrier'\]"):
        make_reference(table=table.drop_columns("carrier"), predicted_BK=np.full(NUM_ROWS, 0.5), spec=spec)
    with pytest.raises(BadInputError, match="got 0 rows"):
        make_reference(table=table.slice(0, 0), predicted_BK=np.empty(0), spec=spec)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 2}', '{"schema_version": 3}'])
def test_a_reference_that_is_none_is_named_corrupt(text: str) -> None:
    with pytest.raises(CorruptArtifactError, match=r"drift_reference\.json must be readable"):
        parse_reference(text)


def test_a_sketch_whose_counts_do_not_fit_its_edges_is_corrupt(spec: ModelSpec, table: pa.Table) -> None:
    made = make_reference(table=table, predicted_BK=np.full(NUM_ROWS, 0.5), spec=spec)
    made["outputs"][0]["counts"] = [1]
    with pytest.raises(CorruptArtifactError, match="1 counts for"):
        parse_reference(json.dumps(made))


def test_a_reference_from_before_there_were_tasks_is_read(spec: ModelSpec, table: pa.Table) -> None:
    made = make_reference(table=table, predicted_BK=np.linspace(0, 1, NUM_ROWS), spec=spec)
    former = {**made, "schema_version": 1, "label_frac": made["baseline"], "scores": made["outputs"][0]}
    for name in ("baseline", "label", "outputs"):
        former.pop(name)
    assert parse_reference(json.dumps(former)) == parse_reference(json.dumps(made))


def test_numbers_and_classes_are_sketched_too(spec: ModelSpec, table: pa.Table) -> None:
    number = spec.model_copy(update={"task": "regression"})
    position = table.schema.get_field_index("label")
    rows = table.set_column(position, "label", pa.array(np.arange(NUM_ROWS) * 1.0))
    reference = parse_reference(json.dumps(make_reference(table=rows, predicted_BK=np.arange(NUM_ROWS), spec=number)))
    assert reference.baseline == pytest.approx(499.5)
    assert isinstance(reference.label, NumericSketch)
    assert reference.label.counts == (10,) * 100
    label = spec.label.model_copy(update={"classes": ("a", "b", "c")})
    classes = spec.model_copy(update={"task": "multiclass_classification", "label": label})
    rows = table.set_column(position, "label", pa.array(["a", "b", "c", "a"] * 250))
    predicted_BK = np.full((NUM_ROWS, 3), 1 / 3)
    reference = parse_reference(json.dumps(make_reference(table=rows, predicted_BK=predicted_BK, spec=classes)))
    assert reference.baseline == [0.5, 0.25, 0.25]
    assert isinstance(reference.label, CategoricalSketch)
    assert reference.label.counts == {"a": 500, "b": 250, "c": 250}
    assert len(reference.outputs) == 3

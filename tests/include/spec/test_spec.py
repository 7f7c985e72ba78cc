import re
import subprocess
import sys
from pathlib import Path

import pytest

from include.errors import NotFoundError, SpecError
from include.spec import (
    MODELS_DIR,
    CompressionSpec,
    DriftSpec,
    FeatureSpec,
    GatesSpec,
    LabelSpec,
    ModelSpec,
    RetrainingSpec,
    RolloutSpec,
    StoreViewSpec,
    TrainingSpec,
    load_spec,
    loss_of,
    model_names,
    parse_spec,
)

TEXT = (MODELS_DIR / "flight_delays" / "model.yaml").read_text()
PATH = Path("models/flight_delays/model.yaml")


def changed(old: str, new: str) -> str:
    """Return the shipped model.yaml with one replacement; in `old`, `#` stands for any number."""
    text, num_changed = re.subn(re.escape(old).replace(r"\#", r"[0-9.]+"), new, TEXT, count=1)
    assert num_changed == 1, old
    return text


def test_the_shipped_specs_can_be_read() -> None:
    assert "flight_delays" in model_names()
    spec = load_spec("flight_delays")
    assert spec.name == "flight_delays"
    assert spec.features.entities == ("carrier", "origin", "route", "tailnum")
    assert spec.features.numeric[-1] == "tail_num_flights_28d"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_epochs: #", "max_epoch: 16", "training.max_epoch: unknown key; .*Did you mean 'max_epochs'"),
        ("file: weather.csv", "fil: weather.csv", "source.tables.weather.fil: unknown key; .*Did you mean 'file'"),
        ("seed: #", "seed: '2013'", "training.seed: Input should be a valid integer; got '2013'"),
        (
            "latency_quantile: 0.9",
            "latency_quantile: 1.0",
            "rollout.latency_quantile: .*less than or equal to 0.999; got '1.0'",
        ),
        ("steps_pct: [#, #]", "steps_pct: []", "rollout.steps_pct: .*at least 1 item"),
        ("steps_pct: [#, #]", "steps_pct: [10, 100.1]", "steps_pct must rise strictly within 0 to 100"),
        (
            "rollout:\n",
            "rollout:\n  strategy: none\n",
            "rollout.strategy: Input should be 'shadow', 'canary' or 'both'",
        ),
        ("steps_pct: [#, #]", "steps_pct: [50, 10]", r"steps_pct must rise strictly .*got \[50.0, 10.0\]"),
        ("steps_pct: [#, #]", "steps_pct: [10, 100]", "steps_pct must rise strictly within 0 to 100"),
        (
            "steps_pct: [#, #]",
            "steps_pct: [10]\n  target: kserve",
            "strategy must be canary on kserve, .*no shadow.*got both",
        ),
        (
            "steps_pct: [#, #]",
            "steps_pct: [2.5]\n  target: kserve\n  strategy: canary",
            r"steps_pct must be multiples of 1 on kserve; got \[2.5\]",
        ),
        ("steps_pct: [#, #]", "steps_pct: [0.25]", "steps_pct must be multiples of 0.1 on local"),
        ("runner: local", "runner: cluster", "runner: Input should be 'local', 'kubernetes', 'torchrun' or 'trainjob'"),
        ("patience_epochs: #", "patience_epochs: 999", r"patience_epochs must not exceed max_epochs \(\d+\); got 999"),
        ("name: is_late", "name: carrier", "label 'carrier' must not be a feature"),
        ("{name: dest, kind", "{name: carrier, kind", "feature names must be unique; got carrier more than once"),
        ("primary_key: [year", "primary_key: [yaer", "primary_key names 'yaer', .*Did you mean 'year'"),
        ("name: flight_delays", "name: flights", "name must equal its folder, 'flight_delays'; got 'flights'"),
        ("owner: ml-platform\n", "", "owner: Field required"),
        (
            "origin_num_flights_28d]}",
            "origin_num_flights_28d], defaults: {temp: 1.0}}",
            r"defaults must be of fields \(origin_late_frac_28d, origin_num_flights_28d\); got temp",
        ),
        ("drift:\n", "serving: {provider: gpu}\ndrift:\n", "serving.provider: Input should be 'cpu', 'cuda' or 'auto'"),
        ("drift:\n", "serving: {max_batch_rows: 0}\ndrift:\n", "serving.max_batch_rows: .*greater than or equal to 1"),
    ],
)
def test_a_bad_spec_says_file_field_and_what_is_allowed(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=f"models/flight_delays/model.yaml(.|\n)*{message}"):
        parse_spec(changed(old, new), path=PATH)


def test_text_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(SpecError, match="must be YAML"):
        parse_spec("name: [", path=PATH)


def test_an_unknown_model_names_those_that_exist() -> None:
    with pytest.raises(NotFoundError, match="Did you mean 'flight_delays'"):
        load_spec("flight_delay")


def test_reading_a_spec_loads_nothing_heavy() -> None:
    code = "import sys; from include.spec import load_spec; load_spec('flight_delays'); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=MODELS_DIR.parents[1]
    )
    assert not {"airflow", "numpy", "pandas", "pyarrow", "duckdb", "torch"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("version", "message"),
    [
        (1, "schema_version must be 3; got 1. .*Run ./tradewind check --fix flight_delays"),
        (4, "schema_version must be 3; got 4. .*Upgrade Tradewind"),
    ],
)
def test_another_version_of_the_format_is_refused_by_itself(version: int, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse_spec(changed("schema_version: #", f"schema_version: {version}\nunknown: 1"), path=PATH)
    assert "unknown" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("task: binary_classification", "task: clustering", "task: Input should be 'binary_classification'"),
        ("task: binary_classification", "task: multiclass_classification", "must name at least 3 classes; got 0"),
        ("  name: is_late", "  name: is_late\n  classes: [a, b, c]", "label.classes belongs to a multiclass"),
        (
            "  runner: local",
            "  runner: local\n  loss: huber\n  huber_delta: 1.0",
            "training.loss .*must be log_loss; got",
        ),
        ("  runner: local", "  runner: local\n  loss: huber", "loss: huber needs huber_delta"),
        (
            "  method: int8",
            "  agreement_tolerance: 1.0\n  method: int8",
            "agreement_tolerance means nothing to task binary",
        ),
    ],
)
def test_a_spec_fits_its_task(old: str, new: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse_spec(changed(old, new), path=PATH)


def test_two_classes_are_no_multiclass_task() -> None:
    text = changed("task: binary_classification", "task: multiclass_classification")
    for classes, message in (
        ("[early, late]", "at least 3 classes; got 2 .two classes are a binary_classification"),
        ("[early, late, late]", "label: classes must be unique; got late more than once"),
    ):
        with pytest.raises(SpecError, match=message):
            parse_spec(text.replace("  name: is_late", f"  name: is_late\n  classes: {classes}"), path=PATH)
    spec = parse_spec(text.replace("  name: is_late", "  name: is_late\n  classes: [a, b, c]"), path=PATH)
    assert loss_of(spec) == "log_loss"


def test_a_regression_says_its_limits_in_its_own_unit() -> None:
    text = re.sub(r"(?m)^  agreement_tolerance: .*\n", "", changed("task: binary_classification", "task: regression"))
    given = text.replace("rollout:\n", "rollout:\n  agreement_tolerance: 3.0\n  max_loss_increase: 0.3\n")
    with pytest.raises(SpecError) as caught:
        parse_spec(text, path=PATH)
    for field in ("compression.agreement_tolerance", "rollout.agreement_tolerance", "rollout.max_loss_increase"):
        assert f"{field} must be given for task regression" in str(caught.value)
    assert "compression.max_loss_increase" not in str(caught.value)
    assert loss_of(parse_spec(given.replace("method: int8_dynamic", "method: none"), path=PATH)) == "squared_error"
    spec = parse_spec(given.replace("  method: int8", "  agreement_tolerance: 0.5\n  method: int8"), path=PATH)
    again = ModelSpec.model_validate_json(spec.model_dump_json())
    assert again == spec


def test_every_field_of_the_spec_is_described() -> None:
    sections = (LabelSpec, FeatureSpec, StoreViewSpec, TrainingSpec, GatesSpec, CompressionSpec, RolloutSpec, DriftSpec)
    fields = [(m.__name__, *item) for m in (*sections, RetrainingSpec, ModelSpec) for item in m.model_fields.items()]
    assert not [f"{section}.{name}" for section, name, field in fields if not field.description]

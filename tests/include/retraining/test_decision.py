"""The truth table of `decide`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from include import partitions
from include.drift.champion import Champion
from include.drift.inputs import InputDrift
from include.drift.monitor import Measurement, Performance
from include.drift.recalibration import Gain
from include.drift.reference import NumericSketch, Reference
from include.retraining.decision import Decision, History, Verdict, decide, find_blocks
from include.spec import load_spec

SPEC = load_spec("flight_delays").model_copy(
    update={
        "drift": load_spec("flight_delays").drift.model_copy(
            update={"min_rows": 500, "min_label_coverage_frac": 0.8, "max_input_psi": 0.2, "max_prediction_psi": 0.2}
        ),
        "retraining": load_spec("flight_delays").retraining.model_copy(
            update={
                "cooldown_partitions": 2,
                "max_per_year": 6,
                "min_loss_increase": 0.02,
                "min_expected_gain": 0.002,
            }
        ),
    }
)
MONTH = "2013-06"
PUBLISHED = tuple(f"2013-{month:02d}" for month in range(1, 7))
CHAMPION = Champion(
    version="1",
    reference=Reference(
        num_rows=1,
        baseline=0.2,
        label=None,
        numeric={},
        categorical={},
        outputs=(NumericSketch(edges=(), counts=(1,), num_missing=0),),
    ),
    validation_loss=0.5,
    window_start="2013-01",
    window_end="2013-03",
)
OWN = Performance(
    model_version="1",
    num_predictions=1000,
    num_shadow=0,
    num_labelled=980,
    mean_prediction=0.2,
    loss=0.51,
    baseline_loss=0.6,
    metrics={"positive_frac": 0.2, "auc": 0.7, "ece": 0.02},
)
STALE = replace(OWN, loss=0.55)
GAIN = Gain(mean=0.01, standard_error=0.002, parameters={"slope": 1.0, "intercept": 0.3}, num_rows=490)
DRIFTED = InputDrift(name="temp", kind="numeric", psi=4.0, js=0.3, ks=0.6, missing_frac=0, reference_missing_frac=0)
STEADY = replace(DRIFTED, name="humid", psi=0.01)


def measured(*, own: Performance | None = OWN, gain: Gain | None = GAIN, **others: Any) -> Measurement:
    versions = () if own is None else (own,)
    others.setdefault("inputs", (STEADY,))
    return Measurement(partition=MONTH, champion_version="1", versions=versions, gain=gain, **others)


def decided(
    measurement: Measurement,
    *,
    partition: str = MONTH,
    champion: Champion | None = CHAMPION,
    published: tuple[str, ...] = PUBLISHED,
    trained: tuple[str, ...] = (),
) -> Decision:
    history = History(published=published, trained=trained)
    return decide(spec=SPEC, partition=partition, measurement=measurement, champion=champion, history=history)


NO_CHAMPION = Measurement(partition=MONTH, champion_version=None)


def test_without_a_champion_a_whole_window_bootstraps() -> None:
    found = decided(NO_CHAMPION, champion=None, partition="2013-03", published=PUBLISHED[:3])
    assert found.verdict is Verdict.BOOTSTRAP
    assert found.evidence["window"] == ["2013-01", "2013-02", "2013-03"]


def test_without_a_champion_and_a_window_the_month_is_kept() -> None:
    found = decided(NO_CHAMPION, champion=None, partition="2013-02", published=PUBLISHED[:2])
    assert found.verdict is Verdict.KEEP
    assert found.reasons == ("a training window has 3 partitions; 2012-12 not published", "no champion serves")


def test_a_hole_in_the_window_is_named() -> None:
    found = decided(NO_CHAMPION, champion=None, published=("2013-04", "2013-06"))
    assert found.reasons[0] == "a training window has 3 partitions; 2013-05 not published"


def test_an_older_partition_never_bootstraps() -> None:
    found = decided(NO_CHAMPION, champion=None, partition="2013-05")
    assert found.verdict is Verdict.KEEP
    assert found.reasons[0] == "2013-05 is not the newest published partition, 2013-06"


def test_loss_and_gain_retrain() -> None:
    found = decided(measured(own=STALE))
    assert found.verdict is Verdict.RETRAIN
    assert found.reasons == (
        "expected gain +0.0100 nats, standard error 0.0020, reaches 0.0020",
        "log loss 0.5500 is 0.0500 nats above validation, limit 0.02",
    )


@pytest.mark.parametrize(
    ("measurement", "symptom"),
    [
        (measured(prediction_psi=0.21), "prediction PSI 0.210 is above 0.2"),
        (measured(label_psi=0.21), "label PSI 0.210 is above 0.2"),
        (measured(inputs=(DRIFTED, STEADY)), "1 of 2 inputs drifted: temp"),
        (
            measured(own=replace(OWN, baseline_loss=0.505)),
            "log loss 0.5100 is worse than the baseline's 0.5050",
        ),
    ],
)
def test_each_symptom_with_gain_retrains_and_without_gain_does_not(measurement: Measurement, symptom: str) -> None:
    found = decided(measurement)
    assert found.verdict is Verdict.RETRAIN
    assert symptom in found.reasons
    kept = decided(replace(measurement, gain=replace(GAIN, mean=0.0019)))
    assert kept.verdict is Verdict.KEEP
    assert kept.reasons[0] == "expected gain +0.0019 nats, standard error 0.0020, is below 0.0020"
    assert symptom in kept.reasons


def test_gain_without_a_symptom_keeps() -> None:
    found = decided(measured(inputs=(STEADY,), prediction_psi=0.2))
    assert found.verdict is Verdict.KEEP
    assert found.reasons == ("neither loss nor drift is beyond its limit",)


@pytest.mark.parametrize(
    ("log_loss", "verdict"), [(0.5199, Verdict.KEEP), (0.52, Verdict.RETRAIN), (0.4, Verdict.KEEP)]
)
def test_both_sides_of_the_loss_limit(log_loss: float, verdict: Verdict) -> None:
    assert decided(measured(own=replace(OWN, loss=log_loss))).verdict is verdict


@pytest.mark.parametrize(
    ("mean", "error", "verdict"),
    [
        (0.0019, 0.0, Verdict.KEEP),
        (0.002, 0.0, Verdict.RETRAIN),
        (0.01, 0.0060, Verdict.RETRAIN),
        (0.01, 0.0061, Verdict.INCONCLUSIVE),
        (-0.05, 0.1, Verdict.KEEP),
    ],
)
def test_both_sides_of_the_gain_limits(mean: float, error: float, verdict: Verdict) -> None:
    gain = replace(GAIN, mean=mean, standard_error=error)
    assert decided(measured(own=STALE, gain=gain)).verdict is verdict


def test_a_gain_that_could_not_be_measured_is_inconclusive() -> None:
    found = decided(measured(own=STALE, gain=None, gain_unknown="too few days"))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons[0] == "the expected gain could not be measured: too few days"


def test_no_predictions_are_no_evidence() -> None:
    found = decided(measured(own=None, gain=None))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == ("champion 1 made no prediction in 2013-06",)


def test_drift_that_was_not_measured_is_no_absence_of_drift() -> None:
    assert decided(measured(inputs=())).reasons == ("no inputs were served",)
    assert decided(measured(inputs=())).verdict is Verdict.INCONCLUSIVE


def test_predictions_of_other_versions_are_no_evidence() -> None:
    assert decided(measured(own=replace(STALE, model_version="2"))).verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize(
    ("num_predictions", "num_labelled", "verdict"),
    [
        (500, 500, Verdict.RETRAIN),
        (500, 499, Verdict.INCONCLUSIVE),
        (1000, 800, Verdict.RETRAIN),
        (1000, 799, Verdict.INCONCLUSIVE),
    ],
)
def test_both_sides_of_the_evidence_limits(num_predictions: int, num_labelled: int, verdict: Verdict) -> None:
    own = replace(STALE, num_predictions=num_predictions, num_labelled=num_labelled)
    assert decided(measured(own=own)).verdict is verdict


def test_a_champion_of_unknown_window_is_inconclusive() -> None:
    found = decided(measured(own=STALE), champion=replace(CHAMPION, window_end=None))
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == ("champion 1 does not say which window it was trained on",)


def test_a_package_without_validation_loss_leaves_the_other_symptoms() -> None:
    champion = replace(CHAMPION, validation_loss=None)
    found = decided(measured(own=STALE), champion=champion)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.reasons == ("champion 1 does not say its validation loss",)
    assert decided(measured(own=STALE, prediction_psi=0.3), champion=champion).verdict is Verdict.RETRAIN


@pytest.mark.parametrize(
    ("window_end", "verdict"),
    [("2013-03", Verdict.RETRAIN), ("2013-04", Verdict.KEEP), ("2013-06", Verdict.KEEP), ("2013-08", Verdict.KEEP)],
)
def test_both_sides_of_the_cool_down(window_end: str, verdict: Verdict) -> None:
    found = decided(measured(own=STALE), champion=replace(CHAMPION, window_end=window_end))
    assert found.verdict is verdict
    assert found.evidence["unblocked_verdict"] == "retrain"
    if verdict is Verdict.KEEP:
        assert found.reasons[0].startswith(f"cool-down: champion's window ended with {window_end}")


def test_an_older_partition_never_retrains() -> None:
    found = decided(replace(measured(own=STALE), partition="2013-05"), partition="2013-05")
    assert found.verdict is Verdict.KEEP
    assert "2013-05 is not the newest published partition, 2013-06" in found.reasons


@pytest.mark.parametrize(
    ("trained", "verdict"),
    [
        (("2012-07", "2012-08", "2012-09", "2012-10", "2012-11", "2012-12"), Verdict.KEEP),
        (("2012-06", "2012-08", "2012-09", "2012-10", "2012-11", "2012-12"), Verdict.RETRAIN),
        (("2012-07", "2012-08", "2012-09", "2012-10", "2012-11"), Verdict.RETRAIN),
        ((MONTH, "2012-08", "2012-09", "2012-10", "2012-11", "2012-12"), Verdict.RETRAIN),
    ],
)
def test_both_sides_of_the_budget(trained: tuple[str, ...], verdict: Verdict) -> None:
    found = decided(measured(own=STALE), trained=trained)
    assert found.verdict is verdict
    if verdict is Verdict.KEEP:
        assert found.reasons[0] == "budget: 6 of 6 trainings within 12 partitions are spent"


def test_evidence_is_json_and_names_the_limits() -> None:
    evidence = json.loads(json.dumps(decided(measured(own=STALE, inputs=(DRIFTED, STEADY))).evidence, allow_nan=False))
    assert evidence["drifted_inputs"] == ["temp"]
    assert evidence["input_psi"] == {"temp": 4.0, "humid": 0.01}
    assert evidence["limits"]["min_expected_gain"] == 0.002
    assert evidence["expected_gain"]["mean"] == 0.01
    assert evidence["champion"] == {"version": "1", "window_end": "2013-03"}
    assert json.dumps(decided(NO_CHAMPION, champion=None).evidence, allow_nan=False)


@pytest.mark.parametrize(("first", "is_spent"), [("2013-01-02", False), ("2013-01-03", True)])
def test_a_year_of_days_is_365_of_them(first: str, is_spent: bool) -> None:
    daily = load_spec("airport_weather")
    daily = daily.model_copy(update={"retraining": daily.retraining.model_copy(update={"max_per_year": 2})})
    today = "2014-01-02"
    history = History(published=partitions.window(today, 28), trained=(first, "2013-06-01"))
    found = find_blocks(spec=daily, partition=today, champion_window_end="2013-12-01", history=history)
    assert found == (("budget: 2 of 2 trainings within 365 partitions are spent",) if is_spent else ())


def test_a_cooldown_of_days_is_days() -> None:
    daily = load_spec("airport_weather")
    history = History(published=partitions.window("2013-03-15", 60))
    given: dict[str, Any] = {"spec": daily, "champion_window_end": "2013-03-01", "history": history}
    (found,) = find_blocks(partition="2013-03-15", **given)
    assert found == "cool-down: champion's window ended with 2013-03-01, next training after 2013-03-15"
    later = History(published=partitions.window("2013-03-16", 60))
    assert find_blocks(partition="2013-03-16", **(given | {"history": later})) == ()

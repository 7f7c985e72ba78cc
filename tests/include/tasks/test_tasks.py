"""What the three tasks say of labels, losses, metrics and predictions; scikit-learn says the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn import metrics as reference

from include.errors import InconclusiveError
from include.spec import load_spec
from include.tasks import task_of
from include.tasks.binary import BinaryClassification
from include.tasks.multiclass import MulticlassClassification
from include.tasks.outputs import as_columns, output_type, repeat, to_numpy
from include.tasks.regression import Regression

if TYPE_CHECKING:
    from include.tasks import Task

CLASSES = ("low", "medium", "high")
BINARY = BinaryClassification()
MULTICLASS = MulticlassClassification(classes=CLASSES)
SQUARED = Regression(loss="squared_error", huber_delta=0.0)
ABSOLUTE = Regression(loss="absolute_error", huber_delta=0.0)
HUBER = Regression(loss="huber", huber_delta=1.5)


def column(values: list[object], kind: pa.DataType | None = None) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, kind)])


def drawn(num_rows: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Return labels of three classes, and probabilities that know something of them."""
    rng = np.random.default_rng(3)
    raw_BK = rng.normal(size=(num_rows, 3)) * 2
    probability_BK = np.exp(raw_BK) / np.exp(raw_BK).sum(axis=1, keepdims=True)
    label_B = np.array([rng.choice(3, p=row) for row in probability_BK])
    return label_B, probability_BK


def test_the_shipped_model_is_a_binary_task() -> None:
    assert task_of(load_spec("flight_delays")) == BINARY


def test_multiclass_metrics_equal_scikit_learn() -> None:
    label_B, probability_BK = drawn()
    losses_B = MULTICLASS.losses(label_B, probability_BK)
    assert losses_B.shape == (400,)
    assert losses_B.mean() == pytest.approx(reference.log_loss(label_B, probability_BK))
    found = MULTICLASS.metrics(label_B, probability_BK)
    assert found["accuracy"] == pytest.approx(reference.accuracy_score(label_B, probability_BK.argmax(axis=1)))
    assert set(found) == set(MULTICLASS.metric_names)


def test_the_calibration_error_is_that_of_the_most_likely_class() -> None:
    probability_BK = np.array([[0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.0, 1.0, 0.0]])
    assert MULTICLASS.metrics(np.array([0, 1, 1]), probability_BK)["ece"] == pytest.approx(0)
    assert MULTICLASS.metrics(np.array([0, 0, 1]), probability_BK)["ece"] == pytest.approx(1 / 3)


def test_regression_metrics_equal_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    label_B = rng.normal(loc=50, scale=7, size=300)
    predicted_B = label_B + rng.normal(size=300)
    found = SQUARED.metrics(label_B, predicted_B)
    assert found["r2"] == pytest.approx(reference.r2_score(label_B, predicted_B))
    assert found["rmse"] == pytest.approx(reference.root_mean_squared_error(label_B, predicted_B))
    assert found["mae"] == pytest.approx(reference.mean_absolute_error(label_B, predicted_B))
    assert SQUARED.losses(label_B, predicted_B).mean() == pytest.approx(
        reference.mean_squared_error(label_B, predicted_B)
    )
    assert ABSOLUTE.losses(label_B, predicted_B).mean() == pytest.approx(found["mae"])


def test_equal_labels_have_no_r2() -> None:
    assert SQUARED.metrics(np.full(3, 2.0), np.array([1.0, 2.0, 3.0]))["r2"] is None


@pytest.mark.parametrize("task", [SQUARED, ABSOLUTE, HUBER])
def test_what_torch_learns_is_what_is_measured(task: Regression) -> None:
    rng = np.random.default_rng(5)
    label_B, predicted_B = rng.normal(size=50) * 3, rng.normal(size=50)
    learned = task.train_loss(torch.from_numpy(predicted_B), torch.from_numpy(label_B))
    assert float(learned) == pytest.approx(task.losses(label_B, predicted_B).mean())


def test_what_torch_learns_of_classes_is_what_is_measured() -> None:
    label_B, probability_BK = drawn()
    raw_BK = torch.from_numpy(np.log(probability_BK))
    learned = MULTICLASS.train_loss(raw_BK, torch.from_numpy(label_B))
    assert float(learned) == pytest.approx(MULTICLASS.losses(label_B, probability_BK).mean())
    assert MULTICLASS.link(raw_BK).numpy() == pytest.approx(probability_BK)


def test_huber_is_square_up_to_delta_and_straight_beyond() -> None:
    found_B = HUBER.losses(np.zeros(3), np.array([1.0, 1.5, -3.5]))
    assert found_B.tolist() == [0.5, 1.125, 1.5 * (3.5 - 0.75)]


@pytest.mark.parametrize("task", [SQUARED, ABSOLUTE, HUBER])
def test_no_other_constant_has_less_loss(task: Regression) -> None:
    label_B = np.random.default_rng(6).exponential(size=501) * 4
    best = task.constant(label_B)
    least = task.losses(label_B, np.full(501, best)).mean()
    for other in (best - 0.05, best + 0.05):
        assert task.losses(label_B, np.full(501, other)).mean() > least


def test_the_constant_of_classes_is_their_shares() -> None:
    label_B = MULTICLASS.encode(column(["low", "high", "high", "medium"]))
    assert label_B.tolist() == [0, 2, 2, 1]
    assert MULTICLASS.constant(label_B) == [0.25, 0.25, 0.5]
    assert np.exp(MULTICLASS.head(label_B).bias) == pytest.approx([0.25, 0.25, 0.5])
    assert repeat([0.25, 0.25, 0.5], num_rows=2).shape == (2, 3)


def test_a_regression_starts_at_its_constant_in_its_own_unit() -> None:
    head = SQUARED.head(np.array([10.0, 30.0]))
    assert (head.bias, head.offset, head.scale) == ((0.0,), 20.0, 10.0)


@pytest.mark.parametrize(
    ("task", "values", "problem"),
    [
        (BINARY, [True, None], "true or false label in each row; got 1 missing"),
        (BINARY, [1, 0], "true or false label in each row; got 0 missing, type int64"),
        (MULTICLASS, ["low", None], "got 1 missing"),
        (MULTICLASS, [1, 2], "one of low, medium, high in each row; got 0 missing, type int64"),
        (MULTICLASS, ["low", "hihg", "none"], "one of low, medium, high in each row; got 'hihg', 'none' too"),
        (SQUARED, [1.0, None], "finite number as label in each row; got 1 missing"),
        (SQUARED, [1.0, float("nan"), float("inf")], "finite number as label in each row; got 2 NaN or infinite"),
        (SQUARED, ["1"], "got 0 missing, type string"),
        (SQUARED, [True], "got 0 missing, type bool"),
    ],
)
def test_labels_that_are_none_of_the_task_are_named(task: Task, values: list[object], problem: str) -> None:
    assert problem in str(task.label_problem(column(values)))


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        (BINARY, [True, False], [1.0, 0.0]),
        (MULTICLASS, ["high", "low"], [2, 0]),
        (SQUARED, [1, 2], [1.0, 2.0]),
        (SQUARED, [1.5, -2.5], [1.5, -2.5]),
    ],
)
def test_labels_become_numbers(task: Task, values: list[object], expected: list[float]) -> None:
    labels = column(values)
    assert task.label_problem(labels) is None
    assert task.encode(labels).tolist() == expected


@pytest.mark.parametrize(
    ("task", "label_B", "problem"),
    [
        (BINARY, np.ones(3, dtype=np.float32), "both outcomes .*got only True"),
        (MULTICLASS, np.array([0, 0, 2]), "every class of label.classes .*got no medium"),
        (SQUARED, np.full(3, 2.5), "different labels .*got only 2.5"),
    ],
)
def test_labels_that_teach_nothing_are_refused(task: Task, label_B: np.ndarray, problem: str) -> None:
    assert task.train_problem(label_B) is not None
    with pytest.raises(AssertionError, match=problem):
        raise AssertionError(task.train_problem(label_B))


@pytest.mark.parametrize(
    ("task", "predicted", "is_right"),
    [
        (BINARY, [0.0, 1.0], True),
        (BINARY, [0.5, 1.01], False),
        (BINARY, [0.5, float("nan")], False),
        (BINARY, [0.5], False),
        (MULTICLASS, [[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]], True),
        (MULTICLASS, [[0.2, 0.3, 0.5], [1.0, 0.5, 0.0]], False),
        (MULTICLASS, [[0.5, 0.5], [0.5, 0.5]], False),
        (MULTICLASS, [0.5, 0.5], False),
        (SQUARED, [-4e9, 3.0], True),
        (SQUARED, [1.0, float("inf")], False),
        (SQUARED, [[1.0], [2.0]], False),
    ],
)
def test_a_prediction_is_checked_before_it_is_answered(task: Task, predicted: object, *, is_right: bool) -> None:
    found = np.asarray(predicted, dtype=np.float32)
    assert (task.prediction_problem(found, num_rows=2) is None) == is_right


def test_two_graphs_agree_in_the_way_of_their_task() -> None:
    one, other = np.array([0.4, 0.6, 0.5]), np.array([0.49, 0.4, 0.7])
    assert BINARY.agree(one, other, tolerance=None).tolist() == [True, False, True]
    one_BK, other_BK = np.array([[0.5, 0.3, 0.2]] * 2), np.array([[0.4, 0.35, 0.25], [0.3, 0.5, 0.2]])
    assert MULTICLASS.agree(one_BK, other_BK, tolerance=None).tolist() == [True, False]
    assert SQUARED.agree(np.array([1.0, 1.0]), np.array([1.25, 1.26]), tolerance=0.25).tolist() == [True, False]


def test_the_unit_of_a_difference_is_the_spread_of_the_predictions() -> None:
    assert SQUARED.unit(np.array([99.0, 101.0])) == pytest.approx(1.01)
    assert SQUARED.unit(np.array([-3.0, 3.0])) == 3
    assert BINARY.unit(np.array([0.1])) == MULTICLASS.unit(np.array([[0.1, 0.2, 0.7]])) == 1


def test_predictions_survive_arrow() -> None:
    for task, predicted in (
        (BINARY, [0.25, 0.5]),
        (MULTICLASS, [[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]]),
        (SQUARED, [-7.0]),
    ):
        array = pa.array(predicted, output_type(num_classes=len(task.classes)))
        assert to_numpy(array.slice(0), task=task).tolist() == predicted
    assert as_columns(np.zeros(4)).shape == (4, 1)
    with pytest.raises(ValueError, match=r"3 probabilities a row; got \[2\]"):
        to_numpy(pa.array([[0.5, 0.5]], output_type(num_classes=3)), task=MULTICLASS)


@pytest.mark.parametrize(
    ("label_B", "predicted_B"), [([], []), ([1.0], [1.0, 2.0]), ([1.0], [float("nan")]), ([float("nan")], [1.0])]
)
def test_numbers_that_cannot_be_measured_are_no_evidence(label_B: list[float], predicted_B: list[float]) -> None:
    with pytest.raises(InconclusiveError, match="a metric needs"):
        SQUARED.losses(np.array(label_B), np.array(predicted_B))

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from include.compression.gate import Comparison, GraphMetrics, choose
from include.spec import CompressionSpec

SPEC = CompressionSpec(min_agreement_frac=0.99, max_loss_increase=0.125, max_auc_decrease=0.25, min_speedup=1.0)
FP32 = GraphMetrics(metrics={"loss": 0.5, "auc": 0.75, "ece": 0.01}, size_bytes=4000, latency_us={1: 20.0, 32: 40.0})
INT8 = GraphMetrics(metrics={"loss": 0.625, "auc": 0.5, "ece": 0.01}, size_bytes=1000, latency_us={1: 20.0, 32: 80.0})
AT_THE_LIMITS = Comparison(
    num_rows=100, loss_name="log loss", fp32=FP32, int8=INT8, agreement_frac=0.99, max_abs_diff=0.1
)


def of_int8(**changed: float | None) -> GraphMetrics:
    return replace(INT8, metrics={**INT8.metrics, **changed})


def test_int8_serves_at_every_limit() -> None:
    found = choose(AT_THE_LIMITS, spec=SPEC)
    assert (found.serves, found.reasons) == ("int8", ())
    assert json.loads(json.dumps(found.to_dict()))["speedup"] == {"1": 1.0, "32": 0.5}


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (replace(AT_THE_LIMITS, agreement_frac=0.9899), r"agrees with fp32 on 0\.9899 of the rows, 0\.99 needed"),
        (replace(AT_THE_LIMITS, int8=of_int8(loss=0.6251)), r"log loss is 0\.1251 higher, 0\.125 allowed"),
        (replace(AT_THE_LIMITS, int8=of_int8(auc=0.4999)), r"AUC is 0\.2501 lower, 0\.25 allowed"),
        (replace(AT_THE_LIMITS, int8=of_int8(auc=None)), "AUC could not be measured"),
        (
            replace(AT_THE_LIMITS, int8=replace(INT8, latency_us={1: 25.0, 32: 10.0})),
            r"runs 0\.80 times as fast as fp32, 1\.0 needed",
        ),
    ],
)
def test_int8_does_not_serve_beyond_one(worse: Comparison, reason: str) -> None:
    found = choose(worse, spec=SPEC)
    assert found.serves == "fp32"
    assert len(found.reasons) == 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(found.reasons[0])


def test_what_was_not_tried_does_not_serve() -> None:
    found = choose(None, spec=CompressionSpec(method="none"))
    assert found.to_dict() == {"serves": "fp32", "reasons": ["the spec's compression method is none"]}


def test_a_task_without_auc_is_judged_without_it() -> None:
    fp32, int8 = (replace(graph, metrics={"loss": graph.loss, "rmse": 1.0}) for graph in (FP32, INT8))
    found = choose(replace(AT_THE_LIMITS, loss_name="mean squared error", fp32=fp32, int8=int8), spec=SPEC)
    assert found.serves == "int8"
    worse = replace(int8, metrics={"loss": 0.6251, "rmse": 1.0})
    found = choose(replace(AT_THE_LIMITS, loss_name="mean squared error", fp32=fp32, int8=worse), spec=SPEC)
    assert found.reasons == ("its mean squared error is 0.1251 higher, 0.125 allowed",)

"""The fields of KServe's definitions that Tradewind writes, by name and type, and a check that nothing else is written.

Source: the Go types of kserve/kserve, whose generated definition is the CRD: `InferenceServiceSpec`, `PredictorSpec`
and `ComponentExtensionSpec` of pkg/apis/serving/v1beta1 at v0.16, `PredictorExtensionSpec` and `ModelSpec` beside them;
and of v0.20 `CanarySpec`, as its generated Python client documents it (`predictor`, `trafficPercent`).
"""

from __future__ import annotations

from typing import Any

import kubernetes_validate

NEWEST_KUBERNETES = "1.34"
_POD_FIELDS = ("containers", "volumes", "serviceAccountName")
_CONTAINER = {"args": list, "envFrom": list, "resources": dict, "volumeMounts": list}
MODEL = {"modelFormat": {"name": str}, "runtime": str, "protocolVersion": str, **_CONTAINER}
PREDICTOR: dict[str, Any] = {
    "name": str,
    "minReplicas": int,
    "canaryTrafficPercent": int,
    "annotations": dict,
    "containers": list,
    "volumes": list,
    "serviceAccountName": str,
    "model": MODEL,
}
SPEC: dict[str, Any] = {"predictor": PREDICTOR}
SPEC_0_20: dict[str, Any] = {"predictor": PREDICTOR, "canary": [{"predictor": PREDICTOR, "trafficPercent": int}]}
CRD_0_20: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "inferenceservices.serving.kserve.io"},
    "spec": {
        "versions": [
            {
                "name": "v1beta1",
                "schema": {
                    "openAPIV3Schema": {
                        "properties": {"spec": {"properties": {"predictor": {}, "canary": {"type": "array"}}}}
                    }
                },
            }
        ]
    },
}


def check(spec: Any, known: Any, *, at: str = "spec") -> None:
    """Raise for a field that KServe does not know, or of another type; the parts of a pod are Kubernetes' own."""
    if isinstance(known, type):
        if not isinstance(spec, known) or isinstance(spec, bool):
            raise TypeError(f"{at} must be {known.__name__}; got {spec!r}")
    elif isinstance(known, list):
        for number, each in enumerate(spec):
            check(each, known[0], at=f"{at}[{number}]")
    else:
        unknown = set(spec) - set(known)
        if unknown:
            raise TypeError(f"{at} must have known fields; got {sorted(unknown)}")
        for name, value in spec.items():
            check(value, known[name], at=f"{at}.{name}")


def check_pod(predictor: dict[str, Any]) -> None:
    """Raise unless Kubernetes would take the pod that a predictor describes."""
    pod_spec = {name: predictor[name] for name in _POD_FIELDS if name in predictor}
    if "model" in predictor:
        served = {name: predictor["model"][name] for name in _CONTAINER if name in predictor["model"]}
        pod_spec["containers"] = [{"name": "kserve-container", "image": "of-the-runtime", **served}]
    metadata = {"name": "p", "annotations": predictor.get("annotations", {})}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec}
    kubernetes_validate.validate(pod, NEWEST_KUBERNETES, strict=True)

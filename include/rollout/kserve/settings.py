"""How models are put on KServe: namespace, image, mode; and the parts of an InferenceService that follow from it.

The container is told by its arguments what to serve, so that equal versions are equal templates: KServe makes a new
revision of whatever differs, an annotation of the service too, which is why no state of a rollout is kept on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from include.errors import SetupError
from include.spec.fields import Frozen

if TYPE_CHECKING:
    from include.rollout.target import Artifact

API_VERSION = "serving.kserve.io/v1beta1"
PORT = 8080
OF_SERVICE = "serving.kserve.io/inferenceservice"
"""Label that KServe gives to the revisions and pods of a service."""
DEPLOYMENT_MODE = "serving.kserve.io/deploymentMode"
MODE_NAMES = {"Knative": "Serverless", "Standard": "Standard"}
"""Mode -> what the annotation says. KServe before v0.16 takes `Knative` for no mode, later ones know both names."""
VERSION, URI, DIGEST = "tradewind/version", "tradewind/package-uri", "tradewind/package-digest"
"""Annotations of the predictor: they reach its revisions and pods."""
_DATA = "/var/lib/tradewind"
SERVE = (
    *("python", "-m", "include.serving", "--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104 - a pod's own address
    *("--state", f"{_DATA}/state", "--storage", f"{_DATA}/lake"),
)
"""What a container of the serving image runs; its command is what hands signals on."""
_TOKEN_FOLDER = "/etc/tradewind"  # noqa: S105 - where the token's file is
_KEYS_FOLDER = "/etc/tradewind-keys"


class KServeSettings(Frozen):
    """What a connection says of a cluster with KServe."""

    namespace: str = Field(min_length=1, description="Namespace of the InferenceServices.")
    image: str = Field(default="", description="The serving image; of Standard mode, the runtime names it.")
    mode: Literal["Knative", "Standard"] = Field(default="Knative", description="KServe's deployment mode.")
    runtime: str = Field(default="tradewind", description="ServingRuntime of the serving image, in Standard mode.")
    token_secret: str = Field(default="", description="Secret whose key `token` is the admin token of the pods.")
    trusted_keys_configmap: str = Field(
        default="", description="ConfigMap whose key `trusted_keys.pem` holds the public keys of signed packages."
    )
    env_secret: str = Field(default="", description="Secret whose keys become the pods' environment: the lake's keys.")
    packages_claim: str = Field(default="", description="Volume claim of the packages, if they are not in S3.")
    packages_folder: str = Field(default="/srv/mlflow", description="Where that is mounted: the folder in their URIs.")
    service_account: str = Field(default="", description="Service account of the pods.")
    min_replicas: int = Field(default=1, ge=1, description="Pods of a version.")
    resources: Mapping[str, Mapping[str, str]] = Field(
        default={"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}},
        description="Requests and limits of a pod.",
    )
    prometheus_url: str = Field(min_length=1, description="Address of Prometheus' HTTP API.")
    metric_labels: Mapping[str, str] = Field(
        default={}, description="Labels that Prometheus adds to these pods' series and no others', such as namespace."
    )
    scrape_interval_s: float = Field(
        default=30, gt=0, description="Seconds between two scrapes; a step's evidence begins so long after the routes."
    )
    ready_timeout_s: float = Field(default=480, gt=0, description="Seconds that a version may take to get ready.")
    routes_timeout_s: float = Field(default=120, gt=0, description="Seconds that KServe may take to move the traffic.")
    version_url: str = Field(
        default="http://{service}.{namespace}.svc.cluster.local:80",
        description="Where one version is asked its golden rows, in Standard mode.",
    )

    @classmethod
    def read(cls, raw: Mapping[str, Any], *, conn_id: str) -> KServeSettings:
        """Return the settings that a connection's extra holds.

        Raises:
            SetupError: A field is missing, unknown or impossible.
        """
        try:
            settings = cls.model_validate(raw)
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
            raise _bad_connection(conn_id, said) from error
        if settings.mode == "Knative" and not settings.image:
            raise _bad_connection(conn_id, "image: needed in Knative mode")
        return settings

    def service_path(self, name: str) -> str:
        """Return where the API keeps an InferenceService."""
        return f"/apis/{API_VERSION}/namespaces/{self.namespace}/inferenceservices/{name}"


def _bad_connection(conn_id: str, said: str) -> SetupError:
    return SetupError(
        f"connection {conn_id!r} must say in its extra how models are put on KServe; got {said}. Nothing was asked of "
        "a cluster. Write its extra as docs/pages/kserve.md shows."
    )


def require_reachable(settings: KServeSettings, artifact: Artifact) -> None:
    """Make sure that a pod can read a package.

    Raises:
        SetupError: It is in a folder that no claim of the settings holds.
    """
    folder = settings.packages_folder.rstrip("/") + "/"
    if artifact.uri.startswith("s3://") or (settings.packages_claim and artifact.uri.startswith(folder)):
        return
    raise SetupError(
        f"package of {artifact.model!r} v{artifact.version} must be where pods can read it, in S3 or on the volume of "
        f"packages_claim below {folder}; got {artifact.uri}. Nothing was changed. Keep MLflow's artifacts there."
    )


def service_name(model: str) -> str:
    """Return the name of a model's InferenceService.

    >>> service_name("flight_delays")
    'flight-delays'
    """
    return model.replace("_", "-")


def predictor(settings: KServeSettings, artifact: Artifact) -> dict[str, Any]:
    """Return the part of a predictor that is the same in both modes: annotations, account, volumes."""
    found: dict[str, Any] = {
        "minReplicas": settings.min_replicas,
        "annotations": {
            VERSION: artifact.version,
            URI: artifact.uri,
            DIGEST: artifact.digest,
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(PORT),
            "prometheus.io/path": "/metrics",
        },
    }
    if settings.service_account:
        found["serviceAccountName"] = settings.service_account
    volumes: list[dict[str, Any]] = []
    if settings.token_secret:
        volumes.append({"name": "token", "secret": {"secretName": settings.token_secret}})
    if settings.trusted_keys_configmap:
        volumes.append({"name": "keys", "configMap": {"name": settings.trusted_keys_configmap}})
    if settings.packages_claim:
        claim = {"claimName": settings.packages_claim, "readOnly": True}
        volumes.append({"name": "packages", "persistentVolumeClaim": claim})
    return {**found, "volumes": volumes} if volumes else found


def container(settings: KServeSettings, artifact: Artifact) -> dict[str, Any]:
    """Return what the serving image must be told, as fields of a container; its arguments come after `SERVE`."""
    told = {name: getattr(artifact, name, "") for name in ("model", "version", "uri", "digest", "signature")}
    champion = {name: value for name, value in told.items() if value}
    arguments = ["--champion", json.dumps(champion, sort_keys=True)]
    found: dict[str, Any] = {"resources": {name: dict(held) for name, held in settings.resources.items()}}
    if settings.env_secret:
        found["envFrom"] = [{"secretRef": {"name": settings.env_secret}}]
    mounts = []
    if settings.token_secret:
        arguments += ["--token-file", f"{_TOKEN_FOLDER}/token"]
        mounts.append({"name": "token", "mountPath": _TOKEN_FOLDER, "readOnly": True})
    if settings.trusted_keys_configmap:
        arguments += ["--trusted-key-file", f"{_KEYS_FOLDER}/trusted_keys.pem"]
        mounts.append({"name": "keys", "mountPath": _KEYS_FOLDER, "readOnly": True})
    if settings.packages_claim:
        mounts.append({"name": "packages", "mountPath": settings.packages_folder, "readOnly": True})
    return {**found, "volumeMounts": mounts, "args": arguments} if mounts else {**found, "args": arguments}

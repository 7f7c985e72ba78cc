"""What a deployment's work amounts to, run ids and clocks aside: two runs that did the same are equal here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.features.examples import feature_table
from include.lake.content import content_hash
from include.lake.tables import read_table, table_exists
from include.registry.models import get_alias
from include.registry.package import read_package

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.runtime.services import Deployment
    from include.serving.client import ModelServerClient
    from include.spec import ModelSpec

_WHEN = ("published_at",)
# A latency is measured anew by each run, and a card and a lock file name the run itself.
_SAME_MODEL = ("encoding.json", "golden.json", "model.fp32.onnx")


def table_digests(*, spec: ModelSpec, storage: Storage) -> dict[str, str]:
    """Return table -> hash of its rows, without the columns that say when a run wrote them."""
    names = (*spec.source.tables, "quarantine", *(feature_table(view) for view in spec.features.store), "scores")
    digests = {}
    for name in names:
        uri = storage.table(spec.name, name)
        if table_exists(uri=uri, storage_options=storage.options):
            rows = read_table(uri=uri, storage_options=storage.options)
            digests[name] = content_hash(rows.drop_columns([c for c in _WHEN if c in rows.column_names]))
    return digests


def serving_state(*, spec: ModelSpec, deployment: Deployment, server: ModelServerClient) -> dict[str, object]:
    """Return the routes, and for each alias the version's window and the bytes of its model."""
    state: dict[str, object] = {"routes": server.get_routes(model=spec.name)["routes"]}
    for alias in ("champion", "challenger"):
        version = get_alias(deployment.mlflow_url, model=spec.name, alias=alias)
        if version is None:
            state[alias] = None
            continue
        files = read_package(version.source, storage=deployment.home.storage).files
        window = (version.tags["window_start"], version.tags["window_end"])
        state[alias] = (version.version, window, {name: files[name] for name in _SAME_MODEL})
    return state

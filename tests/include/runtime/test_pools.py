from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.runtime.pools import ensure_pools

if TYPE_CHECKING:
    import pytest


class Pools:
    """Airflow's two calls about pools, as `AirflowApi` offers them."""

    def __init__(self, *existing: str) -> None:
        self.names = list(existing)
        self.made: list[dict[str, Any]] = []

    def get(self, path: str, *, limit: int, offset: int) -> Any:
        assert path == "pools"
        return {"pools": [{"name": name} for name in self.names[offset : offset + limit]]}

    def post(self, path: str, body: dict[str, Any]) -> None:
        assert path == "pools"
        self.names.append(body["name"])
        self.made.append(body)


def test_only_missing_pools_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("include.runtime.pools.needed_pools", lambda _: {"train_local": 1, "train_gpu": 8})
    api = Pools("default_pool", *(f"p{number}" for number in range(150)), "train_gpu")
    assert ensure_pools(api) == ["train_local"]  # type: ignore[arg-type]
    assert [(made["name"], made["slots"], made["include_deferred"]) for made in api.made] == [("train_local", 1, False)]
    assert ensure_pools(api) == []  # type: ignore[arg-type]


def test_the_shipped_models_train_in_a_pool_of_their_own() -> None:
    assert ensure_pools(Pools("default_pool")) == ["train_local"]  # type: ignore[arg-type]

"""The assets by which one stage starts the next; each carries the partition key of its run.

Their scheme starts with `x-`, which Airflow takes as it is: for others it loads every provider, 0.15 s in each process.
"""

from __future__ import annotations

from airflow.sdk import Asset


def dataset_asset(model: str) -> Asset:
    """Return the asset of a model's validated partitions."""
    return Asset(name=f"{model}.dataset", uri=f"x-tradewind://{model}/dataset", group="tradewind")


def features_asset(model: str) -> Asset:
    """Return the asset of a model's materialized features."""
    return Asset(name=f"{model}.features", uri=f"x-tradewind://{model}/features", group="tradewind")


def retrain_asset(model: str) -> Asset:
    """Return the asset of decisions to train."""
    return Asset(name=f"{model}.retrain", uri=f"x-tradewind://{model}/retrain", group="tradewind")


def challenger_asset(model: str) -> Asset:
    """Return the asset of versions that passed their gates."""
    return Asset(name=f"{model}.challenger", uri=f"x-tradewind://{model}/challenger", group="tradewind")


def champion_asset(model: str) -> Asset:
    """Return the asset of versions that took over the traffic."""
    return Asset(name=f"{model}.champion", uri=f"x-tradewind://{model}/champion", group="tradewind")


def closed_asset(model: str) -> Asset:
    """Return the asset of partitions for which every decision has been taken."""
    return Asset(name=f"{model}.closed", uri=f"x-tradewind://{model}/closed", group="tradewind")

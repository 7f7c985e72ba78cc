"""The assets by which one stage starts the next; each carries the partition key of its run."""

from __future__ import annotations

from airflow.sdk import Asset


def dataset_asset(model: str) -> Asset:
    """Return the asset of a model's validated partitions."""
    return Asset(name=f"{model}.dataset", uri=f"tradewind://{model}/dataset", group="tradewind")


def features_asset(model: str) -> Asset:
    """Return the asset of a model's materialized features."""
    return Asset(name=f"{model}.features", uri=f"tradewind://{model}/features", group="tradewind")


def retrain_asset(model: str) -> Asset:
    """Return the asset of decisions to train."""
    return Asset(name=f"{model}.retrain", uri=f"tradewind://{model}/retrain", group="tradewind")


def challenger_asset(model: str) -> Asset:
    """Return the asset of versions that passed their gates."""
    return Asset(name=f"{model}.challenger", uri=f"tradewind://{model}/challenger", group="tradewind")


def champion_asset(model: str) -> Asset:
    """Return the asset of versions that took over the traffic."""
    return Asset(name=f"{model}.champion", uri=f"tradewind://{model}/champion", group="tradewind")


def closed_asset(model: str) -> Asset:
    """Return the asset of partitions for which every decision has been taken."""
    return Asset(name=f"{model}.closed", uri=f"tradewind://{model}/closed", group="tradewind")

"""The network of `airport_weather`: the shared one for categories and numbers."""

from include.training.tabular import build_tabular as build_network

__all__ = ["build_network"]

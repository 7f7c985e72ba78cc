"""Where Tradewind's files live: one root, on a disk or in an object store, with a fixed layout below it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Storage:
    """The root of a deployment's files and what is needed to open it.

    Args:
        root: Absolute path, or `s3://bucket/prefix`.
        local_root: Folder for what needs a disk of the machine that serves, beside a root in an object store: Feast's
            registry and online store, and the prediction log. Empty: they are below the root.
        options: delta-rs storage options; they may hold secrets, so they never appear in `repr`.
    """

    root: str
    local_root: str = ""
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_local(self) -> bool:
        """Whether the root is a folder of this machine."""
        return "://" not in self.root

    def _join(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), *parts])

    def _join_local(self, *parts: str) -> str:
        return "/".join([(self.local_root or self.root).rstrip("/"), *parts])

    def landing(self, model: str, partition: str | None = None) -> str:
        """Folder where an upstream system delivers a partition's files, then its marker."""
        return self._join("landing", model, *([partition] if partition else []))

    def table(self, model: str, table: str) -> str:
        """URI of a Delta table."""
        return self._join("lake", model, table)

    def snapshot(self, model: str, name: str) -> str:
        """Folder of one training set: `data.parquet` and `manifest.json`."""
        return self._join("snapshots", model, name)

    def job(self, model: str, key: str) -> str:
        """Folder of one training job: `job.json`, checkpoints, the model package, and last `result.json`."""
        return self._join("jobs", model, key)

    def predictions(self, model: str) -> str:
        """Folder of the served predictions' Parquet files."""
        return self._join_local("predictions", model)

    def report(self, model: str, partition: str) -> str:
        """Folder of one partition's HTML reports (Data Docs, drift)."""
        return self._join("reports", model, partition)

    def feast(self) -> str:
        """Folder of Feast's registry and, on a laptop, its online store."""
        return self._join_local("feast")

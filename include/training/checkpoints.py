"""Checkpoints of one job: the newest whole one is found again after any kind of end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from include.errors import NotFoundError
from include.lake.files import delete_file, read_bytes, write_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.lake.storage import Storage

INDEX = "index.json"
_NUM_KEPT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """The checkpoints of a job: files, and an index of the newest ones that is replaced after each.

    Args:
        uri: Their folder.
        job_hash: The job; checkpoints of another one are not used.
        storage: Where the folder is.
    """

    uri: str
    job_hash: str
    storage: Storage

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Write a state of tensors, numbers, texts, lists and dicts; the newest two are kept."""
        import torch

        sink = BytesIO()
        torch.save(dict(state), sink)
        content = sink.getvalue()
        file = f"{name}.pt"
        write_bytes(f"{self.uri}/{file}", content, storage=self.storage)
        earlier = [entry for entry in self._index() if entry["file"] != file]
        kept = [{"file": file, "sha256": hashlib.sha256(content).hexdigest()}, *earlier][:_NUM_KEPT]
        index = {"job_hash": self.job_hash, "checkpoints": kept}
        write_bytes(f"{self.uri}/{INDEX}", json.dumps(index).encode(), storage=self.storage)
        for entry in earlier:
            if entry not in kept:
                delete_file(f"{self.uri}/{entry['file']}", storage=self.storage)

    def load_newest(self, *, device: str) -> dict[str, Any] | None:
        """Return the newest state whose bytes are whole, None if there is none."""
        import torch

        for entry in self._index():
            try:
                content = read_bytes(f"{self.uri}/{entry['file']}", storage=self.storage)
            except NotFoundError:
                continue
            if hashlib.sha256(content).hexdigest() == entry["sha256"]:
                return dict(torch.load(BytesIO(content), map_location=device, weights_only=True))
        return None

    def newest_uri(self) -> str | None:
        """Return where the newest checkpoint lies, None if there is none; its bytes are not read."""
        index = self._index()
        return f"{self.uri}/{index[0]['file']}" if index else None

    def _index(self) -> list[dict[str, str]]:
        """Return file and digest of each checkpoint, newest first."""
        try:
            raw = json.loads(read_bytes(f"{self.uri}/{INDEX}", storage=self.storage))
            entries = raw["checkpoints"] if raw["job_hash"] == self.job_hash else []
            return [{"file": str(entry["file"]), "sha256": str(entry["sha256"])} for entry in entries]
        except (NotFoundError, ValueError, KeyError, TypeError):
            return []  # no whole index is no checkpoint: training starts over

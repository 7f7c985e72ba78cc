"""Who trained a job last, for a trainer on another machine that nobody follows any more.

On one machine a lock keeps a second trainer out. A retry may come to another machine, where that lock is not seen: it
starts there, and the first trainer, which has lost its task, sees in the job's folder that it is not wanted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import NotFoundError, ServiceError
from include.lake.files import read_bytes, write_bytes

if TYPE_CHECKING:
    from include.lake.storage import Storage
    from include.training.job import Job

CLAIM_FILE = "trainer.json"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """The word of one trainer that it trains a job; a later one takes its place.

    Args:
        uri: Where it is written.
        trainer: Names it.
        storage: Where the job is.
    """

    uri: str
    trainer: str
    storage: Storage

    @classmethod
    def take(cls, job: Job, *, storage: Storage) -> Claim:
        """Claim a job, whoever trained it before.

        Raises:
            ServiceError: The object store does not answer.
        """
        claim = cls(uri=f"{job.output_uri}/{CLAIM_FILE}", trainer=os.urandom(16).hex(), storage=storage)
        write_bytes(claim.uri, json.dumps({"trainer": claim.trainer}).encode(), storage=storage)
        return claim

    def is_lost(self) -> bool:
        """Return whether another trainer has claimed the job since; what cannot be read is no sign of one."""
        try:
            found = json.loads(read_bytes(self.uri, storage=self.storage))
        except (NotFoundError, ServiceError, OSError, ValueError):
            return False
        return bool(found.get("trainer") != self.trainer)

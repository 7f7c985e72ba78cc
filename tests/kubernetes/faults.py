"""What goes wrong with a call to a scripted API server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Kind = Literal["error", "error_after", "reset", "reset_after", "slow", "cut"]


@dataclass(kw_only=True, eq=False)
class Fault:
    """One kind of trouble with some calls.

    Attributes:
        kind: `error`: the server answers `code` and has done nothing; `error_after`: and has done it; `reset`: the
            connection ends without an answer, and nothing was done; `reset_after`: and it was done; `slow`: it answers
            late; `cut`: its body ends in the middle.
        verb: HTTP method; empty: any.
        path: Part of the path, as a regular expression: `pods/[^/]*/log$`.
        code: Of an error: 401, 403, 404, 409, 410, 429, 500, 503, 504.
        says: Of an error: the server's words.
        retry_after_s: What a 429 or 503 asks for.
        delay_s: Of a slow answer, in real seconds.
        num_bytes: After how many of them a body is cut.
        skip: Calls that go well first.
        times: Calls that it hits; None: all.
        struck: Called when it hits the first one.
    """

    kind: Kind = "error"
    verb: str = ""
    path: str = ""
    code: int = 500
    says: str = ""
    retry_after_s: int | None = None
    delay_s: float = 0.0
    num_bytes: int = 0
    skip: int = 0
    times: int | None = 1
    struck: Callable[[], None] | None = None

    def hits(self, verb: str, path: str) -> bool:
        """Return whether this call goes wrong, and count it."""
        if self.times == 0 or self.verb not in ("", verb) or not re.search(self.path, path):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        if self.struck is not None:
            self.struck()
            self.struck = None
        return True


REASONS = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}

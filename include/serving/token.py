"""The admin token: what a file holds at this moment, so that replacing the file rotates it."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from include.errors import SetupError

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class AdminToken:
    """Reads the file at each use: no restart, and no moment at which neither the old nor the new token is right."""

    path: Path

    def read(self) -> str:
        """Return the token.

        Raises:
            SetupError: The file is empty or cannot be read.
        """
        reason = "an empty file"
        try:
            token = self.path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            token, reason = "", str(error)
        if not token:
            raise SetupError(
                f"admin token must be in {self.path}; got {reason}. Nothing was done. Write a random token into it, "
                "mode 0600: `./tradewind token rotate` does."
            )
        return token

    def admits(self, authorization: str) -> bool:
        """Return whether a request's `Authorization` header holds the token; takes equally long for every wrong one."""
        sent = authorization.encode("utf-8", "surrogateescape")
        return hmac.compare_digest(sent, f"Bearer {self.read()}".encode())

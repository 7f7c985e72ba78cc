"""Champions that a server is started with, where nobody deploys to it: one version a pod, say a KServe predictor's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from include.errors import SetupError
from include.serving.router import Routes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from include.serving.router import Router


class _Champion(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    version: str
    uri: str
    digest: str
    signature: str | None = None


def appoint(router: Router, champions: Iterable[str]) -> None:
    """Let versions answer alone for their models, whatever was routed before; they are loaded as restored ones are.

    Args:
        router: What was routed before.
        champions: JSON objects with `model`, `version`, and the `uri` and `digest` of its package; also its
            `signature`, where the server asks for one.

    Raises:
        SetupError: One is none.
    """
    for text in champions:
        try:
            found = msgspec.json.decode(text, type=_Champion)
        except msgspec.DecodeError as error:
            raise SetupError(
                f"a champion must be a JSON object with model, version, uri and digest; got {text[:200]!r}: {error}. "
                "Nothing was served. Mend the server's --champion."
            ) from error
        package = {"uri": found.uri, "digest": found.digest}
        if found.signature is not None:
            package["signature"] = found.signature
        router.set_version(found.model, found.version, package)
        router.set_routes(found.model, Routes(champion=found.version))

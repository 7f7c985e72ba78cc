"""Champions that a server is started with, where nobody deploys to it: one version a pod, say a KServe predictor's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from include.errors import SetupError
from include.serving.router import Routes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from include.registry.signing import Trust
    from include.serving.router import Router


class _Champion(msgspec.Struct, forbid_unknown_fields=True):
    model: str
    version: str
    uri: str
    digest: str
    signature: str = ""


def appoint(router: Router, champions: Iterable[str], *, trust: Trust | None) -> None:
    """Let versions answer alone for their models, whatever was routed before; they are loaded as restored ones are.

    Args:
        router: What was routed before; it stays so if one of the champions is refused.
        champions: JSON objects with `model`, `version`, and the `uri` and `digest` of its package; also its
            `signature`, if keys are given.
        trust: The keys of which one must have signed each package; None: no signature is asked for.

    Raises:
        SetupError: One is none.
        UnsignedError: None of the keys vouches for one.
    """
    wanted = [_read(text) for text in champions]
    if trust is not None:
        for found in wanted:
            trust.require(model=found.model, digest=found.digest, signature=found.signature)
    for found in wanted:
        router.set_version(found.model, found.version, {"uri": found.uri, "digest": found.digest})
        router.set_routes(found.model, Routes(champion=found.version))


def _read(text: str) -> _Champion:
    try:
        return msgspec.json.decode(text, type=_Champion)
    except msgspec.DecodeError as error:
        raise SetupError(
            f"a champion must be a JSON object with model, version, uri and digest; got {text[:200]!r}: {error}. "
            "Nothing was served. Mend the server's --champion."
        ) from error

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from include.errors import SetupError
from include.serving.appointed import appoint
from include.serving.router import Router, Routes

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = {"model": "m", "version": "7", "uri": "s3://bucket/7", "digest": "abc"}


def test_the_appointed_version_answers_alone_and_a_restart_changes_nothing(tmp_path: Path) -> None:
    router = Router(path=tmp_path / "router.json")
    router.set_version("m", "6", {"uri": "s3://bucket/6", "digest": "def"})
    router.set_routes("m", Routes(champion="6"))
    appoint(router, [json.dumps(GIVEN)])
    assert router.state("m").routes == Routes(champion="7")
    assert router.state("m").versions["7"] == {"uri": "s3://bucket/7", "digest": "abc"}
    revision = router.state("m").revision
    again = Router(path=tmp_path / "router.json")
    again.restore()
    appoint(again, [json.dumps(GIVEN)])
    assert again.state("m").revision == revision


@pytest.mark.parametrize("text", ["{", '{"model": "m"}', json.dumps({**GIVEN, "share": 5}), '["m"]'])
def test_what_is_no_champion_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupError, match="must be a JSON object with model, version, uri and digest; got"):
        appoint(Router(path=tmp_path / "router.json"), [text])

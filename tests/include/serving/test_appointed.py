from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from include.errors import SetupError, UnsignedError
from include.registry.signing import Signer, Trust, new_private_key, public_key_of
from include.serving.appointed import appoint
from include.serving.router import Router, Routes

if TYPE_CHECKING:
    from pathlib import Path

GIVEN = {"model": "m", "version": "7", "uri": "s3://bucket/7", "digest": "abc"}


def test_the_appointed_version_answers_alone_and_a_restart_changes_nothing(tmp_path: Path) -> None:
    router = Router(path=tmp_path / "router.json")
    router.set_version("m", "6", {"uri": "s3://bucket/6", "digest": "def"})
    router.set_routes("m", Routes(champion="6"))
    appoint(router, [json.dumps(GIVEN)], trust=None)
    assert router.state("m").routes == Routes(champion="7")
    assert router.state("m").versions["7"] == {"uri": "s3://bucket/7", "digest": "abc"}
    revision = router.state("m").revision
    again = Router(path=tmp_path / "router.json")
    again.restore()
    appoint(again, [json.dumps(GIVEN)], trust=None)
    assert again.state("m").revision == revision


@pytest.mark.parametrize("text", ["{", '{"model": "m"}', json.dumps({**GIVEN, "share": 5}), '["m"]'])
def test_what_is_no_champion_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(SetupError, match="must be a JSON object with model, version, uri and digest; got"):
        appoint(Router(path=tmp_path / "router.json"), [text], trust=None)


def test_where_keys_are_given_each_champion_is_signed_or_none_is_appointed(tmp_path: Path) -> None:
    private = new_private_key()
    (tmp_path / "key").write_text(private)
    (tmp_path / "keys").write_text(public_key_of(private))
    trust = Trust(keys_file=tmp_path / "keys")
    signed = {**GIVEN, "signature": Signer(key_file=tmp_path / "key").sign(model="m", digest="abc")}
    router = Router(path=tmp_path / "router.json")
    for unsigned in ({**GIVEN, "model": "n"}, {**signed, "model": "n"}, {**signed, "digest": "abd"}):
        with pytest.raises(UnsignedError, match="must bring a signature of its model and digest; got"):
            appoint(router, [json.dumps(signed), json.dumps(unsigned)], trust=trust)
        assert router.states == {}
    appoint(router, [json.dumps(signed)], trust=trust)
    assert router.state("m").routes == Routes(champion="7")
    assert router.state("m").versions["7"] == {"uri": "s3://bucket/7", "digest": "abc"}


def test_a_signature_that_an_earlier_release_kept_is_read_over(tmp_path: Path) -> None:
    router = Router(path=tmp_path / "router.json")
    package = {"uri": "s3://bucket/7", "digest": "abc"}
    router.set_version("m", "7", {**package, "signature": "of then"})
    again = Router(path=tmp_path / "router.json")
    again.restore()
    assert again.state("m").versions == {"7": package}

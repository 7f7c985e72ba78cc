from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from include.cli.app import app
from include.rollout.ledger import Ledger

if TYPE_CHECKING:
    from typer.testing import Result

    from include.runtime.home import Home

MODEL = "flight_delays"
ORIGIN = {"approved_by": "bob", "data_versions": {"flights": 3, "weather": 4}, "parameters": {"epochs": 2}}
START = datetime(2013, 7, 1, tzinfo=UTC)


@pytest.fixture
def ledger(home: Home) -> Ledger:
    """Return a ledger by which v1 served from 1 July on, and v2 from 2 July on."""
    moments = iter(START + timedelta(days=number) for number in range(2))
    found = Ledger(path=home.ledger, now=lambda: next(moments))
    for version, kind, reasons in (("1", "bootstrap", []), ("2", "promote", ["every measure is within its limit"])):
        evidence = {"champion": version, "previous": None, "reasons": reasons, **ORIGIN, "commit": f"c{version}"}
        evidence["digest"] = f"d{version}"
        found.append(model=MODEL, kind=kind, subject=version, evidence=evidence, actor="ann", key=version)
    return found


def ask(*arguments: str, home: Home) -> Result:
    return CliRunner().invoke(app, ["ledger", *arguments, "--home", str(home.root)])


def test_says_what_served_at_a_moment(home: Home, ledger: Ledger) -> None:
    assert ask("serving", "--model", MODEL, home=home).stdout == (
        "v2 champion 100 % since 2013-07-02 00:00:00 UTC, by promote of ann\n"
        "  approved by   bob\n"
        "  data versions flights=3, weather=4\n"
        "  commit        c2\n"
        "  parameters    epochs=2\n"
        "  digest        d2\n"
        "  reason        every measure is within its limit\n"
    )
    assert ask("serving", "--model", MODEL, "--at", "2013-07-01", home=home).stdout.startswith(
        "v1 champion 100 % since 2013-07-01"
    )


@pytest.mark.parametrize(
    ("at", "version"),
    [
        ("2013-07-02T00:00:00", "2"),
        ("2013-07-02T00:00:00+0100", "1"),
        ("2013-07-01 23:59:59", "1"),
        ("2013-07-02T00:00", "2"),
        ("2013-07-01T23:59", "1"),
        ("2013-07-01 23:59", "1"),
        ("2013-07-02T00:00Z", "2"),
        ("2013-07-02T00:59+01:00", "1"),
        ("2013-07-02", "2"),
        ("2013-07-01T23:59:59.999999", "1"),
        ("2013-07-02T00:00:00.000000+00:00", "2"),
    ],
)
def test_a_moment_is_utc_unless_it_says_otherwise(home: Home, ledger: Ledger, at: str, version: str) -> None:
    said = json.loads(ask("serving", "--model", MODEL, "--at", at, "--json", home=home).stdout)

    assert [one["version"] for one in said] == [version]


def test_before_the_first_version_nothing_served(home: Home, ledger: Ledger) -> None:
    done = ask("serving", "--model", MODEL, "--at", "2013-06-30", home=home)

    assert done.exit_code == 1
    assert "got none before it" in done.stderr
    assert "Name a later moment: the newest one began at 2013-07-02T00:00:00+00:00." in done.stderr
    assert "None ever did" in ask("serving", "--model", "flight_delay", home=home).stderr


@pytest.mark.parametrize("at", ["now", "", "12:00", "2013-13-01", "9999-12-31T23:59-05:00"])
def test_what_is_no_moment_is_wrong_usage(home: Home, ledger: Ledger, at: str) -> None:
    done = ask("serving", "--model", MODEL, "--at", at, home=home)

    assert done.exit_code == 2
    assert "must be a moment such as" in done.stderr


def test_verifies_the_chain_up_to_a_hash_that_was_kept(home: Home, ledger: Ledger) -> None:
    head = ledger.entries()[-1].hash

    assert ask("verify", home=home).stdout == f"2 entries, every link holds; head {head}\n"
    assert ask("verify", "--head", head, home=home).exit_code == 0
    assert ask("verify", "--head", "f" * 64, home=home).exit_code == 1

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a finding is meant."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What was found about one thing.

    Args:
        name: The thing, in a word or two.
        level: Whether it is as it must be.
        said: What was found; never a secret.
        remedy: What to do about it; empty when it is well.
    """

    name: str
    level: Level
    said: str
    remedy: str = ""


def ok(name: str, said: str) -> Finding:
    """Return a finding that all is well."""
    return Finding(name=name, level=Level.OK, said=said)


def warn(name: str, said: str, remedy: str) -> Finding:
    """Return a finding that may become a problem."""
    return Finding(name=name, level=Level.WARN, said=said, remedy=remedy)


def fail(name: str, said: str, remedy: str) -> Finding:
    """Return a finding that keeps something from working."""
    return Finding(name=name, level=Level.FAIL, said=said, remedy=remedy)

"""When an object of Kubernetes has come to what is waited for: by its conditions, or by a field of its status."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from include.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RULE = re.compile(r"^(?P<path>\.?[A-Za-z][\w.\-/]*?)(=(?P<value>[^=]+))?$")
_STATUS = ".status."
_SHOWN_CHARS = 300


class Verdict(StrEnum):
    """Whether to wait on."""

    WAIT = "wait"
    REACHED = "reached"
    FAILED = "failed"
    GONE = "gone"
    TIMED_OUT = "timed_out"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What must hold: a condition's type and status, or a field of the object and its value.

    >>> Rule.parse("Complete"), Rule.parse("Ready=False")
    (Rule(path='Complete', value='True'), Rule(path='Ready', value='False'))
    >>> Rule.parse(".status.phase=Succeeded")
    Rule(path='.status.phase', value='Succeeded')

    Attributes:
        path: Type of a condition, or with a leading dot the path of a field.
        value: The condition's status, or the field's value as text.
    """

    path: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Return the rule that a text names.

        Raises:
            BadInputError: It names none.
        """
        found = _RULE.match(text)
        if found is None or (found["path"].startswith(".") and not found["value"]):
            raise BadInputError(
                "a rule must be a condition such as Ready or Ready=False, or a field such as .status.phase=Running; "
                f"got {text!r}. Nothing was waited for. Mend the rule."
            )
        return cls(path=found["path"], value=found["value"] or "True")

    def holds(self, found: Mapping[str, Any]) -> bool:
        """Return whether an object fulfils it; what its controller said about an older version does not count."""
        if self.path.startswith("."):
            if self.path.startswith(_STATUS) and not _is_current({}, found):
                return False
            value: Any = found
            for key in self.path[1:].split("."):
                value = value.get(key) if isinstance(value, dict) else None
            return _text(value) == self.value
        return any(
            each.get("type") == self.path and str(each.get("status")) == self.value and _is_current(each, found)
            for each in conditions(found)
        )


def conditions(found: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return an object's conditions."""
    return (found.get("status") or {}).get("conditions") or ()


def decide(found: Mapping[str, Any] | None, *, until: Sequence[Rule], failed_if: Sequence[Rule]) -> tuple[Verdict, str]:
    """Return whether to wait on for an object, and the words of its controller.

    Args:
        found: The object; None: it is not there.
        until: Rules of which one must hold.
        failed_if: Rules of which none may.
    """
    if found is None:
        return Verdict.GONE, "it is not there"
    for rules, verdict in ((failed_if, Verdict.FAILED), (until, Verdict.REACHED)):
        for rule in rules:
            if rule.holds(found):
                return verdict, _words(found, rule)
    return Verdict.WAIT, _words(found, None)


def _words(found: Mapping[str, Any], rule: Rule | None) -> str:
    """Return the message of the rule's condition, or of all of them."""
    said = [each for each in conditions(found) if rule is None or each.get("type") == rule.path]
    lines = [": ".join(str(each[key]) for key in ("type", "reason", "message") if each.get(key)) for each in said]
    text = "; ".join(lines) or (f"{rule.path} is {rule.value}" if rule else "no conditions yet")
    return text[:_SHOWN_CHARS]


def _is_current(condition: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    generation = (found.get("metadata") or {}).get("generation")
    seen = condition.get("observedGeneration", (found.get("status") or {}).get("observedGeneration"))
    return generation is None or seen is None or int(seen) >= int(generation)


def _text(value: object) -> str:
    return {True: "True", False: "False"}.get(value, str(value)) if isinstance(value, bool) else str(value)

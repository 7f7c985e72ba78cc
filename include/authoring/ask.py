"""Who answers what inference cannot know for certain: a person at a terminal, the guesses themselves, or nobody."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rich.markup import escape
from rich.prompt import Prompt

from include.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Question:
    """Something that decides what is written.

    Args:
        flag: The option that answers it.
        text: The question.
        guess: What the sample suggests; None: it suggests nothing.
        why: What speaks for the guess.
        choices: What may be answered; none: anything.
        is_plain: Whether the guess may be taken without anybody having seen it.
    """

    flag: str
    text: str
    guess: str | None = None
    why: str = ""
    choices: Sequence[str] = ()
    is_plain: bool = True


class Asker(Protocol):
    """Answers questions."""

    def ask(self, question: Question) -> str:
        """Return the answer.

        Raises:
            BadInputError: There is none.
        """

    def end(self) -> None:
        """Say that there are no more questions.

        Raises:
            BadInputError: Some had no answer.
        """


@dataclass(frozen=True, kw_only=True)
class Person:
    """Asks at the terminal, with the guess as the default."""

    console: Console

    def ask(self, question: Question) -> str:
        """Ask until the answer is one of the choices."""
        if question.why:
            self.console.print(f"[dim]{escape(question.why)}[/dim]")
        while True:
            answer = Prompt.ask(f"[bold]{escape(question.text)}[/bold]", console=self.console, default=question.guess)
            try:
                return checked(answer or "", question)
            except BadInputError as error:
                self.console.print(f"[red]{escape(str(error))}[/red]")

    def end(self) -> None:
        """Do nothing: a person has answered all of them."""


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """Takes what the sample suggests, where nobody has to see it first."""

    def ask(self, question: Question) -> str:
        """Return the guess."""
        if question.guess is None or not question.is_plain:
            raise _missing([question])
        return question.guess

    def end(self) -> None:
        """Do nothing: what had no guess was refused at once."""


@dataclass(kw_only=True)
class Nobody:
    """Never answers, and says at the end everything that is missing."""

    _open: list[Question] = field(default_factory=list)

    def ask(self, question: Question) -> str:
        """Go on with the guess to find the other questions."""
        self._open.append(question)
        if question.guess is None:
            raise _missing(self._open)
        return question.guess

    def end(self) -> None:
        """Refuse if there was any question."""
        if self._open:
            raise _missing(self._open)


def answer(asker: Asker, question: Question, *, given: str | None) -> str:
    """Return what an option says, or else what the asker does.

    Raises:
        BadInputError: It is none of the choices, or there is no answer.
    """
    return checked(given if given is not None else asker.ask(question), question)


def checked(found: str, question: Question) -> str:
    """Return an answer that is allowed.

    Raises:
        BadInputError: It is none of the choices.
    """
    if found and (not question.choices or found in question.choices):
        return found
    close = difflib.get_close_matches(found, question.choices, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise BadInputError(
        f"{question.flag} must be one of {', '.join(question.choices) or 'your words'}; got {found!r}. Nothing was "
        f"written.{hint}"
    )


def _missing(questions: Sequence[Question]) -> BadInputError:
    lines = [f"  {q.flag} {q.guess or '...'}    {q.text}" + (f" ({q.why})" if q.why else "") for q in questions]
    takes = all(q.guess and q.is_plain for q in questions)
    remedy = "Pass them, or --yes to take these." if takes else "Pass them; a terminal asks for them."
    return BadInputError("new cannot decide this alone:\n" + "\n".join(lines) + f"\nNothing was written. {remedy}")

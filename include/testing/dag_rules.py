"""What every Dag file must do, one rule a function: facts in, problems out; no problem is a pass."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from include.testing.dag_files import DagFacts, DagFileFacts

HEAVY: Final = (
    *("torch", "onnx", "onnxruntime", "mlflow", "feast", "evidently", "great_expectations", "pandas", "pyarrow"),
    *("duckdb", "deltalake", "sklearn", "scipy"),
)
"""Libraries that take from a third of a second to several; each parse and each task would pay for them."""

_WAITS_FOR_A_PERSON: Final = {"ApprovalOperator", "HITLOperator", "HITLEntryOperator", "HITLBranchOperator"}
"""A person's answer has a deadline of its own; Airflow would kill the waiting task by `execution_timeout`."""

_CLOCK: Final = {"now", "today", "utcnow"}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the rules measure against.

    Attributes:
        heavy: Packages that no Dag file may load.
        max_parse_s: CPU seconds that parsing one file may take, beyond Airflow's own imports.
    """

    heavy: tuple[str, ...] = HEAVY
    max_parse_s: float = 0.5


def imports(file: DagFileFacts, _limits: Limits, _others: Sequence[DagFileFacts]) -> Iterator[str]:
    """Airflow must be able to import the file and each of its Dags."""
    yield from file.errors


def light(file: DagFileFacts, limits: Limits, _others: Sequence[DagFileFacts]) -> Iterator[str]:
    """No heavy library is loaded while the file is parsed: import it inside the function that uses it."""
    for name in sorted(set(file.loaded) & set(limits.heavy)):
        yield f"{name} is loaded while the file is parsed; import it inside the function that uses it"


def quick(file: DagFileFacts, limits: Limits, _others: Sequence[DagFileFacts]) -> Iterator[str]:
    """Parsing takes little: it happens every half minute, and once more in every task."""
    if file.seconds > limits.max_parse_s:
        yield f"parsing must take at most {limits.max_parse_s:g} s of CPU beyond Airflow; got {file.seconds:.2f} s"


def reads_nothing(file: DagFileFacts, _limits: Limits, _others: Sequence[DagFileFacts]) -> Iterator[str]:
    """No variable, no connection and no clock is read while the file is parsed."""
    for what in file.asked:
        yield f"{what} is looked up while the file is parsed; use a template, or look it up inside a task"
    for call in _parse_time_calls(ast.parse(file.path.read_text())):
        if isinstance(call.func, ast.Attribute) and call.func.attr in _CLOCK:
            yield f"line {call.lineno} reads the clock while the file is parsed: each parse would make another Dag"


def unique_ids(file: DagFileFacts, _limits: Limits, others: Sequence[DagFileFacts]) -> Iterator[str]:
    """No other file declares a Dag of the same id: Airflow would show the one that it parsed last."""
    taken = {dag.dag_id: other.path for other in others if other.path != file.path for dag in other.dags}
    for dag in file.dags:
        if dag.dag_id in taken:
            yield f"{dag.dag_id} is declared in {taken[dag.dag_id]} too"


def documented(dag: DagFacts) -> Iterator[str]:
    """The Dag says what it does, and so does each parameter of its form."""
    if not dag.is_documented:
        yield "doc_md must say what the Dag does; got nothing. Give the file a docstring and pass doc_md=__doc__"
    for name, description in dag.params.items():
        if not description:
            yield f"parameter {name!r} must have a description, which the form shows; got none"


def start_date(dag: DagFacts) -> Iterator[str]:
    """The first run's date has a time zone."""
    if dag.start_date is None:
        yield "start_date must be set; got none"
    elif datetime.fromisoformat(dag.start_date).tzinfo is None:
        yield f"start_date must have a time zone; got {dag.start_date}"


def retries(dag: DagFacts) -> Iterator[str]:
    """Each task survives one lost machine. A person's answer is asked for once."""
    for task in dag.tasks:
        if task.retries < 1 and task.type not in _WAITS_FOR_A_PERSON:
            yield f"task {task.task_id!r} must have at least 1 retry; got {task.retries}"


def timeouts(dag: DagFacts) -> Iterator[str]:
    """Each task ends, if only by its time limit; what waits for a person ends by its own."""
    for task in dag.tasks:
        if task.timeout_s is None and task.type not in _WAITS_FOR_A_PERSON:
            yield f"task {task.task_id!r} must have an execution_timeout; got none: it could hang for ever"


FILE_RULES: Final = {rule.__name__: rule for rule in (imports, light, quick, reads_nothing, unique_ids)}
DAG_RULES: Final = {rule.__name__: rule for rule in (documented, start_date, retries, timeouts)}


def _parse_time_calls(tree: ast.AST) -> Iterator[ast.Call]:
    """Yield each call that parsing may reach: none inside a class's methods or a `@task` function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) or _is_task(node):
            continue
        if isinstance(node, ast.Call):
            yield node
        yield from _parse_time_calls(node)


def _is_task(node: ast.AST) -> bool:
    """Return whether a node is a function that Airflow runs in a task."""
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return False
    named = [ast.unparse(decorator).partition("(")[0] for decorator in node.decorator_list]
    return any(name.partition(".")[0] == "task" for name in named)

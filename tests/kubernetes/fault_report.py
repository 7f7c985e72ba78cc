"""What many fault sequences have shown, by operator and by fault, for `benchmarks/training_faults.json`."""

from __future__ import annotations

import inspect
import json
import os
import platform
import subprocess
import sys
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kubernetes import operators_under_test
from tests.kubernetes.befalls import FLAWS, PERSONS
from tests.kubernetes.sequences import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

Endings = list[dict[str, Any]]

RUNNERS = ("tradewind", "torchrun", "trainjob")
BASELINE = "plain"
_BY_PERSONS = (*FLAWS, *PERSONS)
"""What another try cannot mend, or what a person has asked for."""
_TIMEOUT_S = 3000
PAGE = Path(__file__).parents[2] / "docs" / "pages" / "training-faults.md"
BEGIN, END = "<!-- figures: make bench-faults -->", "<!-- end of figures -->"
_HEADS = {
    "tradewind": "one pod",
    "torchrun": "two pods, Job",
    "trainjob": "two pods, TrainJob",
    "plain": "plain `KubernetesPodOperator`",
}


def _wrong(total: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{number} {what.replace('_', ' ')}" for what, number in total["wrong_states"].items())
    return f"{total['num_wrong_states']}{': ' if kinds else ''}{kinds}"


_ROWS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "wrong last states": _wrong,
    "orphans, second pods, overlaps": lambda total: (
        f"{total['num_orphans']}, {total['num_duplicates']}, {total['num_overlaps']}"
    ),
    "pods left to the janitor": lambda total: f"{total['num_left_to_the_janitor']}",
    "most work done again": lambda total: f"{total['max_lost_s']:.1f} s",
    "user's retries used by machines": lambda total: f"{total['user_retries_used_by_machines']}",
    "tries of what no try can mend": lambda total: f"{total['useless_tries']}",
    "GPU time over work": lambda total: f"{total['gpu_s_over_work_s']}",
    "log lines missing, repeated": lambda total: (
        f"{total['num_lines_missing']:,} of {total['num_lines']:,}, {total['num_lines_repeated']}"
    ),
}


def run_all(num_sequences: int, operators: Sequence[str], *, num_processes: int = 2) -> dict[str, Endings]:
    """Run the sequences from seed 0 on with each operator, in processes of their own.

    Raises:
        CalledProcessError: One of them ended badly; its standard error is shown.
    """
    step = -(-num_sequences // num_processes)
    parts = [
        (operator, str(first), str(min(first + step, num_sequences)))
        for operator in operators
        for first in range(0, num_sequences, step)
    ]
    with ThreadPoolExecutor(num_processes) as pool:
        found = list(pool.map(_run_part, parts))
    together: dict[str, Endings] = {operator: [] for operator in operators}
    for (operator, *_), endings in zip(parts, found, strict=True):
        together[operator] += endings
    return together


def _run_part(part: tuple[str, str, str]) -> Endings:
    command = [sys.executable, "-m", "tests.kubernetes.run_sequences", *part]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if answer.returncode:
        sys.stderr.write(answer.stderr[-5000:])
        answer.check_returncode()
    return [json.loads(line) for line in answer.stdout.splitlines()]


def summary(endings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return counts over sequences."""
    endings = list(endings)
    curable = [each for each in endings if each["kind"] not in _BY_PERSONS]
    hopeless = [each for each in endings if each["kind"] in FLAWS and each["wanted"] == "failed"]
    return {
        "num_sequences": len(endings),
        "num_struck": sum(bool(each["happened"]) for each in endings),
        "num_wrong_states": sum(bool(each["wrong"]) for each in endings),
        "wrong_states": dict(Counter(each["wrong"] for each in endings if each["wrong"])),
        "num_left_to_the_janitor": sum(each["num_left"] for each in endings),
        "num_orphans": sum(each["num_orphans"] for each in endings),
        "num_duplicates": sum(each["num_duplicates"] for each in endings),
        "num_overlaps": sum(each["num_overlaps"] for each in endings),
        "max_lost_s": max((each["lost_s"] for each in endings), default=0.0),
        "user_retries_used_by_machines": sum(each["num_retries_used"] for each in curable),
        "useless_tries": sum(each["num_tries"] - 1 for each in hopeless),
        "gpu_s_over_work_s": _share(curable),
        "num_lines": sum(each["num_lines"] for each in endings),
        "num_lines_missing": sum(each["num_lines_missing"] for each in endings),
        "num_lines_repeated": sum(each["num_lines_repeated"] for each in endings),
        "num_api_calls": sum(each["num_calls"] for each in endings),
    }


def _share(endings: Iterable[Mapping[str, Any]]) -> float | None:
    done = [each for each in endings if each["state"] == "success"]
    work_s = sum(each["work_s"] for each in done)
    return round(sum(each["busy_s"] for each in done) / work_s, 3) if work_s else None


def report(found: Mapping[str, Endings], *, wall_s: float) -> dict[str, Any]:
    """Return all that the file says."""
    first = next(iter(found.values()))
    return {
        "what": (
            "Seeded fault sequences on a scripted Kubernetes API over real HTTP, with Airflow's own task runner, in "
            "simulated time: waits end at once, no call is left out."
        ),
        "seeds": [min(each["seed"] for each in first), max(each["seed"] for each in first)],
        "wall_s": round(wall_s, 1),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "operators": {name: inspect.getdoc(getattr(operators_under_test, name)) for name in found},
        "units": _UNITS,
        "total": {name: summary(endings) for name, endings in found.items()},
        "by_fault": {
            kind: {name: summary(each for each in endings if each["kind"] == kind) for name, endings in found.items()}
            for kind in KINDS
        },
        "seeds_not_right": {name: _not_right(endings) for name, endings in found.items()},
    }


_UNITS = {
    "num_struck": "sequences in which a fault struck; a process that ended earlier cannot be killed",
    "num_wrong_states": "tasks whose last state does not say what became of the training",
    "num_left_to_the_janitor": "pods that still live three minutes after the task has ended",
    "num_orphans": "of them, those that still live after the janitor's next pass, on its schedule",
    "num_duplicates": "times that a second live pod of a job came to be beside the first",
    "num_overlaps": "times that a trainer began while one of the same job still ran, on a node that is cut off too",
    "max_lost_s": "most seconds of work that a run did again; checkpoints are 60 s apart, and 2 s go into saving one",
    "user_retries_used_by_machines": "of the author's retries, used up where no person was at fault or asked for it",
    "useless_tries": "tries beyond the first of trainings that no try can mend",
    "num_lines": "lines that trainers had printed when the task ended",
    "num_lines_missing": "of them, those that the task's log has not; a pod that is gone takes its log with it",
    "num_lines_repeated": "lines of trainers that the task's log has more than once",
    "gpu_s_over_work_s": "seconds that trainers ran over seconds that undisturbed trainings take, of successes",
}


def _not_right(endings: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return fault and what was wrong -> seeds."""
    found: dict[str, list[str]] = defaultdict(list)
    for each in endings:
        counted = [name for name in ("num_orphans", "num_duplicates", "num_overlaps") if each[name]]
        for wrong in (each["wrong"], *counted):
            if wrong:
                found[f"{each['kind']}: {wrong}"].append(str(each["seed"]))
    return {what: " ".join(seeds) for what, seeds in sorted(found.items())}


def figures(told: Mapping[str, Any]) -> str:
    """Return what the page says of a report."""
    total = told["total"]
    first, last = told["seeds"]
    rows = [("", *_HEADS.values()), ("---",) * (len(_HEADS) + 1)]
    rows += [(title, *(cell(total[name]) for name in _HEADS)) for title, cell in _ROWS.items()]
    table = "\n".join(f"| {' | '.join(row)} |".replace("|  |", "| |") for row in rows)
    minutes, cpus = told["wall_s"] / 60, told["cpus"]
    return f"{last - first + 1:,} sequences each, in {minutes:.0f} minutes on {cpus} cores:\n\n{table}\n\n"


def write(told: Mapping[str, Any], path: Path, *, page: Path = PAGE) -> None:
    """Write the file, and its figures into the page."""
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{figures(told)}{END}{after}", encoding="utf-8")


def main(num_sequences: str, path: str) -> None:
    """`python -m tests.kubernetes.fault_report 1000 benchmarks/training_faults.json`."""
    began = time.monotonic()
    found = run_all(int(num_sequences), (*RUNNERS, BASELINE))
    write(report(found, wall_s=time.monotonic() - began), Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.cli.deployment import find_deployment, sources_of
from include.cli.models import end_with, load_specs
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption, ModelsArgument
from include.cli.tables import print_json, print_silent, print_table

if TYPE_CHECKING:
    from include.plan.outlook import Line


def plan(model: ModelsArgument = None, *, as_json: JsonOption = False, home: HomeOption = DEFAULT_HOME) -> None:
    """Say what the next runs would do, and why; nothing is started.

    Which partitions are taken in or waited for, whether the next decision could train, what a training took before,
    and what a rollout needs. It works on a deployment that is down, and says what it could not see.
    """
    from include.plan.gather import read_facts
    from include.plan.outlook import make_plan

    sources = sources_of(find_deployment(home))
    now = datetime.now(UTC)
    specs, unreadable = load_specs(model)
    facts = [read_facts(spec=spec, sources=sources, now=now) for spec in specs]
    found = {known.spec.name: (make_plan(known), known.silent) for known in facts}
    if as_json:
        plans = {name: {"plan": list(lines), "silent": list(silent)} for name, (lines, silent) in found.items()}
        print_json({"models": plans, "unreadable": unreadable})
    else:
        for name, (lines, silent) in found.items():
            print_table(name, ("stage", "outlook", "what, and why"), [_row(line) for line in lines])
            print_silent(silent)
    end_with(unreadable)


def _row(line: "Line") -> tuple[str, ...]:
    command = [f"> {line.command}"] if line.command else []
    told = [f"{line.subject}: {line.what}", *(f"- {reason}" for reason in line.why), *command]
    return line.stage, line.outlook, "\n".join(told)

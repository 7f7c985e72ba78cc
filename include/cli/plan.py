from datetime import UTC, datetime
from typing import TYPE_CHECKING

from include.cli.deployment import find_deployment, sources_of
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption, ModelsArgument
from include.cli.tables import print_json, print_silent, print_table
from include.spec import load_spec, model_names

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
    found = {}
    for name in [model] if model else model_names():
        facts = read_facts(spec=load_spec(name), sources=sources, now=now)
        found[name] = (make_plan(facts), facts.silent)
    if as_json:
        print_json({name: {"plan": list(lines), "silent": list(silent)} for name, (lines, silent) in found.items()})
        return
    for name, (lines, silent) in found.items():
        print_table(name, ("stage", "of", "outlook", "what, and why"), [_row(line) for line in lines])
        print_silent(silent)


def _row(line: "Line") -> tuple[str, ...]:
    what = "\n".join(
        (line.what, *(f"- {reason}" for reason in line.why), *([f"> {line.command}"] if line.command else ()))
    )
    return line.stage, line.subject, str(line.outlook), what

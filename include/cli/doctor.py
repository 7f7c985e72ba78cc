import os
from pathlib import Path

import typer

from include.cli.deployment import find_deployment
from include.cli.options import DEFAULT_HOME, HomeOption, JsonOption
from include.cli.tables import print_json, print_table
from include.runtime.home import Home


def doctor(*, as_json: JsonOption = False, home: HomeOption = DEFAULT_HOME) -> None:
    """Check machine, packages, code, specs and the deployment, and say what to do about what is wrong.

    Each line is ok, warn or fail, with the remedy. Nothing is changed, no secret is shown. The exit code is 1 if one
    fails.
    """
    from include.doctor.code import check_code
    from include.doctor.deployment import check_deployment, check_permissions, worst
    from include.doctor.finding import Level, warn
    from include.doctor.machine import check_machine, judge_environment

    found = [*check_machine(home), judge_environment(os.environ), *check_code()]
    if _is_deployed(home):
        found.append(check_permissions(Home(root=home)))
        found += check_deployment(find_deployment(home))
    else:
        found.append(warn("deployment", f"{home} holds none yet", "make up"))
    if as_json:
        print_json({"level": worst(found), "findings": found})
    else:
        rows = [(item.level, item.name, item.said + (f"\n> {item.remedy}" if item.remedy else "")) for item in found]
        print_table("", ("", "what", "found, and what to do"), rows)
    if worst(found) is Level.FAIL:
        raise typer.Exit(1)


def _is_deployed(home: Path) -> bool:
    return (Home(root=home).secrets / "secrets.json").exists()

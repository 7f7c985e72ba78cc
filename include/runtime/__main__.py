"""`python -m include.runtime up|down`: keep a deployment running on this machine; `./tradewind status` tells how it is.

Exit codes: 0 done; 1 it could not be done; 2 bad usage; 130 and 143 ended by Ctrl-C or SIGTERM, after what was started
had been stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from include.errors import TradewindError
from include.runtime import processes, stack
from include.runtime.home import DEFAULT_HOME, Home
from include.spec import load_specs


def main(arguments: list[str]) -> int:
    """Run one command; return the process's exit code."""
    parser = argparse.ArgumentParser(prog="include.runtime", description=__doc__)
    parser.add_argument("command", choices=["up", "down"])
    parser.add_argument("--home", type=Path, default=Path(os.environ.get("TRADEWIND_HOME", DEFAULT_HOME)))
    chosen = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        return _COMMANDS[chosen.command](chosen.home.resolve(), console)
    except TradewindError as error:
        console.print(f"[red]error:[/red] {escape(str(error))}")
        return 1


def _up(root: Path, console: Console) -> int:
    """Start everything; a model without Dags is no reason to fail, and one to say so."""
    deployment = stack.open_deployment(root, ports=stack.ports_from_environment())
    with console.status("starting") as status:
        stack.up(deployment, say=lambda text: status.update(escape(text)))
    home = "" if root == DEFAULT_HOME else f" TRADEWIND_HOME={root}"
    for line in (
        f"Airflow       {deployment.airflow_url}   user admin   password {deployment.secrets.admin_password}",
        f"MLflow        {deployment.mlflow_url}",
        f"Model server  {deployment.model_server_url}/v2",
        f"Land files    {deployment.home.storage.root}/landing",
        f"Logs          {deployment.home.logs}",
        f"Stop          make down{home}",
    ):
        console.print(escape(line), soft_wrap=True)
    for text in load_specs()[1]:
        console.print(f"[yellow]warning:[/yellow] {escape(text)}", soft_wrap=True)
    return 0


def _down(root: Path, console: Console) -> int:
    num_stopped = stack.down(Home(root=root), say=console.print)
    console.print(f"{num_stopped} processes stopped" if num_stopped else "nothing was running")
    return 0


_COMMANDS = {"up": _up, "down": _down}

if __name__ == "__main__":
    processes.exit_on_signals()
    sys.exit(main(sys.argv[1:]))

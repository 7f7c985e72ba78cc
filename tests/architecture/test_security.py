"""What docs/pages/security.md promises: loopback, no pickles, constant time, pinned packages, no lint rule weakened."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.runtime import stack
from tests.tiny_models import tiny_graph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.running import RunningModelServer

ROOT = Path(__file__).parents[2]
FOLDERS = ("include", "operators", "sensors", "dags", "plugins")
CODE = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
PICKLING = {"pickle", "cPickle", "_pickle", "dill", "joblib", "cloudpickle", "shelve", "marshal"}
UNPICKLING_CALLS = {"read_pickle", "to_pickle", "pyfunc", "unsafe_load", "full_load", "load_state_dict_from_url"}
LISTENING = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
SECRET = re.compile(r"token|password|secret", re.IGNORECASE)


def problems(tree: ast.AST) -> Iterator[str]:
    """Yield what reads or writes a pickle, or compares a secret as it would compare any text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in PICKLING)
        elif isinstance(node, ast.Attribute) and node.attr in UNPICKLING_CALLS:
            yield f"uses {node.attr}"
        elif isinstance(node, ast.Call):
            yield from problems_of_call(node)
        elif isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            sides = [node.left, *node.comparators]
            named = [ast.unparse(side) for side in sides if isinstance(side, ast.Name | ast.Attribute)]
            if any(SECRET.search(name) for name in named) and not any(isinstance(s, ast.Constant) for s in sides):
                yield f"compares {ast.unparse(node)} in a time that tells how much of it was right"


def problems_of_call(call: ast.Call) -> Iterator[str]:
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    name = ast.unparse(call.func)
    if name == "torch.load" and given.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if given.get("allow_pickle", "False") != "False":
        yield f"{name} with allow_pickle"
    if name == "yaml.load" and given.get("Loader") not in ("yaml.CSafeLoader", "yaml.SafeLoader"):
        yield f"yaml.load with {given.get('Loader')}"


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_pickle_is_read_and_no_secret_compared_as_text(path: Path) -> None:
    assert list(problems(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "import pickle",
        "from joblib import load",
        "import mlflow\nmlflow.pyfunc.load_model('m')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "yaml.load(text, Loader=yaml.Loader)",
        "sent == self.admin_token",
        "password != given",
    ],
)
def test_the_check_finds_what_it_is_for(wrong: str) -> None:
    assert list(problems(ast.parse(wrong)))


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_every_package_is_pinned(lock: str) -> None:
    lines = [line for line in (ROOT / lock).read_text().splitlines() if line and not line.startswith((" ", "#"))]
    assert len(lines) > 25
    assert [
        line for line in lines if not re.match(r"[a-z0-9._-]+(\[[a-z0-9,_-]+\])?==[\w.!+]+( ;.*)?( \\)?$", line)
    ] == []


@pytest.mark.parametrize("stem", sorted(path.stem for path in ROOT.glob("requirements*.in")))
def test_every_direct_requirement_is_in_its_lock(stem: str) -> None:
    wanted = {
        re.split(r"[\[<>=;! ]", line, maxsplit=1)[0].lower().replace("_", "-")
        for line in (ROOT / f"{stem}.in").read_text().splitlines()
        if line and not line.startswith(("#", "-")) and "darwin" not in line.replace('!= "darwin"', "")
    }
    locked = set(re.findall(r"^([a-z0-9._-]+)(?:\[.*\])?==", (ROOT / f"{stem}.txt").read_text(), flags=re.MULTILINE))
    assert wanted - {name.replace("_", "-") for name in locked} == set()


def test_onnxruntime_neither_collects_nor_sends_what_it_loads(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(tiny_graph())
    code = "import pathlib, sys; from include.compression import graphs; "
    code += "graphs.open_graph(pathlib.Path(sys.argv[1]).read_bytes())"
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-c", code, str(graph)], env={"HOME": str(home)}, cwd=ROOT, check=True)
    assert list(home.rglob("*")) == []  # a process that collects keeps an identifier and a database there


def test_every_server_is_told_to_listen_on_loopback(tmp_path: Path) -> None:
    deployment = stack.open_deployment(tmp_path / "h", ports=stack.free_ports())
    commands = {service.name: " ".join(service.command) for service in deployment.services()}
    for name, command in commands.items():
        assert "0.0.0.0" not in command, name
        assert "[::]" not in command, name
    assert "--host 127.0.0.1" in commands["mlflow"]
    # The rest of Airflow's processes would serve task logs on every address.
    for name in ("scheduler", "triggerer"):
        assert "--skip-serve-logs" in commands[name]
    settings = configparser.RawConfigParser()
    settings.read(ROOT / "airflow.cfg")
    assert settings["api"]["host"] == "127.0.0.1"
    assert "--host" not in commands["api-server"]
    assert "--host" not in commands["model-server"]  # its default, held by the next test


def test_a_model_server_that_runs_listens_on_loopback_only(model_server: RunningModelServer) -> None:
    addresses = listeners()[model_server.port]
    assert addresses
    assert addresses <= set(LOOPBACK)


def listeners() -> dict[int, set[str]]:
    """Return port -> the addresses on which something listens, as the kernel has it."""
    found: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net") / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            _, local, _, state, *_ = line.split()
            if state == LISTENING:
                address, _, port = local.partition(":")
                found.setdefault(int(port, 16), set()).add(address)
    return found


def test_no_security_rule_of_the_linter_is_off_for_code_that_runs() -> None:
    lint = tomllib.loads((ROOT / ".ruff.toml").read_text())["lint"]
    assert lint["select"] == ["ALL"]
    assert {rule for rule in lint["ignore"] if re.fullmatch(r"S\d*", rule)} == {"S101", "S603"}
    for files, rules in lint["per-file-ignores"].items():
        assert files == "tests/**" or not [rule for rule in rules if re.fullmatch(r"S\d*", rule)], files


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_exception_from_a_security_rule_says_why(path: Path) -> None:
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if re.search(r"# noqa: [A-Z0-9, ]*\bS\d{3}", line):
            assert re.search(r"# noqa: [A-Z0-9, ]+ - \w+", line), f"{path}:{number} {line.strip()}"

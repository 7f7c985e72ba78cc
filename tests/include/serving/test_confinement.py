"""What the process in which a version is tried out may do, told by a module of its own that runs in it."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.errors import CorruptArtifactError
from include.serving.landlock import landlock_version
from include.serving.sandbox import ROOT, SandboxLimits, try_out
from include.serving.versions import read_registered
from tests.running import MODEL, RunningModelServer
from tests.tiny_models import SPEC, tiny_package

if TYPE_CHECKING:
    from collections.abc import Callable

    from include.lake.storage import Storage

LIMITS = SandboxLimits(memory_gib=1, cpu_s=20, wall_s=60)
AT_THE_END = """
import atexit, errno, os, resource, socket, sys
class Broken:
    def write(self, _): raise SystemExit(3)
    def flush(self): pass
def tried(act):
    try: act()
    except OSError as error: return errno.errorcode[error.errno]
    return "done"
def end():
    tell()
    os._exit(3)
atexit.register(end)
sys.stdout = Broken()
"""
RIGHTS = """
def tell():
    status = open("/proc/self/status").read()
    limits = [resource.getrlimit(one) for one in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE)]
    print(sorted(os.environ), limits, "NoNewPrivs:\\t1" in status, file=sys.stderr)
"""
ATTACKS = """
def tell():
    home = {home!r}
    attacks = dict(
        read=lambda: open(home + "/token"),
        listed=lambda: os.listdir(home),
        truncate=lambda: os.truncate(home + "/router.json", 0),
        remove=lambda: os.unlink(home + "/token"),
        make=lambda: open(home + "/made", "x"),
        replace=lambda: os.rename(home + "/other", home + "/router.json"),
        environ=lambda: open("/proc/%d/environ" % os.getppid()),
        memory=lambda: open("/proc/%d/mem" % os.getppid(), "r+"),
        run=lambda: os.posix_spawn("/bin/true", ["true"], {{}}),
        connect=lambda: socket.socket().connect(("127.0.0.1", {port})),
        kill=lambda: os.kill(os.getppid(), 0),
    )
    print(*(name + "=" + tried(act) for name, act in attacks.items()), file=sys.stderr)
"""
CHILD = """
import os, time
child = os.fork()
if child:
    open({told!r}, "w").write(str(child))
time.sleep(600)
"""


@pytest.fixture
def before_all_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that lets every Python process that is started run some code first."""

    def put(code: str) -> None:
        folder = tmp_path / "first"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")

    return put


def tried_out(folder: Path, limits: SandboxLimits = LIMITS) -> None:
    made = tiny_package(folder)
    try_out(
        read_registered(model=MODEL, version="2", uri=made.uri, digest=made.digest),
        spec=SPEC,
        version="2",
        limits=limits,
    )


def test_the_child_inherits_no_secret_and_no_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before_all_else: Callable[[str], None]
) -> None:
    before_all_else(AT_THE_END + RIGHTS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with pytest.raises(CorruptArtifactError, match=r"\[\(0, 0\), \(0, 0\)\] True") as raised:
        tried_out(tmp_path / "p")
    assert "PATH" in str(raised.value)
    assert "SECRET" not in str(raised.value)


@pytest.mark.skipif(landlock_version() < 6, reason="needs Linux 6.12 with Landlock")
def test_code_in_the_child_reaches_no_file_no_address_and_no_process(
    tmp_path: Path, before_all_else: Callable[[str], None]
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("token", "router.json", "other"):
        (home / name).write_text(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        before_all_else(AT_THE_END + ATTACKS.format(home=str(home), port=listener.getsockname()[1]))
        with pytest.raises(CorruptArtifactError, match="it ended with status 3: read=") as raised:
            tried_out(tmp_path / "p")
    said = str(raised.value).split("status 3: ")[1].split(". It was not loaded")[0]
    found = dict(each.split("=") for each in said.split())
    assert found == {**dict.fromkeys(found, "EACCES"), "kill": "EPERM"}
    assert len(found) == 11
    assert {each.name: each.read_text() for each in home.iterdir()} == {n: n for n in ("token", "router.json", "other")}


def test_what_the_child_started_ends_with_it(tmp_path: Path, before_all_else: Callable[[str], None]) -> None:
    before_all_else(CHILD.format(told=str(tmp_path / "pid")))
    with pytest.raises(CorruptArtifactError, match=r"it hung: no answer after 5 s"):
        tried_out(tmp_path / "p", SandboxLimits(memory_gib=1, cpu_s=20, wall_s=5))
    pid = int((tmp_path / "pid").read_text())
    deadline = time.monotonic() + 10
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_without_landlock_the_server_says_so_and_the_limits_remain(
    tmp_path: Path, storage: Storage, before_all_else: Callable[[str], None]
) -> None:
    before_all_else("import include.serving.landlock as it\nit.landlock_version = lambda: 0\n")
    server = RunningModelServer(folder=tmp_path / "server", storage=storage)
    server.start()
    try:
        made = tiny_package(tmp_path / "p")
        server.client.load(model=MODEL, version="1", uri=made.uri, digest=made.digest)
        assert "within limits only: the kernel offers no Landlock" in server.log
    finally:
        server.kill()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False

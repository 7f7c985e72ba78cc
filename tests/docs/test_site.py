"""The site builds offline, and a warning is an error: a page that the nav lacks, a link that leads nowhere."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--config-file", "docs/mkdocs.yml"]
    # A proxy that refuses every connection: nothing may be fetched.
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), f"http://127.0.0.1:{port}")
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **proxy, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_none_loads_anything_from_elsewhere(site: Path) -> None:
    for page in (ROOT / "docs" / "pages").rglob("*.md"):
        relative = page.relative_to(ROOT / "docs" / "pages").with_suffix("")
        built = site / relative / "index.html" if relative.name != "index" else site / relative.with_suffix(".html")
        html = built.read_text()
        assert (
            re.findall(r'<(?:script|img|link rel="(?:stylesheet|preload)")[^>]*(?:src|href)="(https?:[^"]*)', html)
            == []
        )


def test_api_pages_come_from_docstrings(site: Path) -> None:
    html = (site / "operators" / "ingest_partition" / "index.html").read_text()
    assert "typed and strictly checked" in html
    assert "lake_conn_id" in html
    assert "Run one try of a task" in (site / "api" / "testing" / "index.html").read_text()


def test_the_example_is_shown_as_it_is(site: Path) -> None:
    assert "worst_carriers" in (site / "write-your-own-dag" / "index.html").read_text()

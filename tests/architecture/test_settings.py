"""airflow.cfg holds what differs from Airflow's defaults, and nothing secret."""

import configparser
import itertools
from pathlib import Path

import pytest
import yaml

REPO = Path(__file__).parents[2]


def ours() -> list[tuple[str, str, str]]:
    parser = configparser.RawConfigParser()
    parser.read(REPO / "airflow.cfg")
    return [(section, key, value) for section in parser.sections() for key, value in parser[section].items()]


@pytest.mark.parametrize(("section", "key", "value"), ours())
def test_each_setting_exists_and_differs_from_the_default(section: str, key: str, value: str) -> None:
    import airflow

    templates = Path(airflow.__file__).parent / "config_templates" / "config.yml"
    options = yaml.safe_load(templates.read_text())[section]["options"]
    if key in ("mp_start_method", "mp_forkserver_preload"):
        options = yaml.safe_load(templates.read_text())["core"]["options"]  # may be set by component
    assert key in options
    assert str(options[key]["default"]) != value


def test_each_setting_has_its_reason() -> None:
    lines = [line for line in (REPO / "airflow.cfg").read_text().splitlines() if line and not line.startswith("[")]
    for before, line in itertools.pairwise(lines):
        if not line.startswith("#") and "preload" not in line:
            assert before.startswith("#"), f"{line} has no comment above it"


def test_nothing_secret_or_local_is_committed() -> None:
    text = (REPO / "airflow.cfg").read_text()
    for word in ("password", "fernet_key", "secret_key", "jwt_secret", "sql_alchemy_conn", str(REPO)):
        assert f"{word} =" not in text

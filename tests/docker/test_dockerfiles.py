"""What holds of the Dockerfiles and of what they copy, without building them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from include.training.profiles import Security
from tests.docker.images import AIRFLOW, ROOT, SERVER, TRAINER, Image, files_of, is_sent, tracked

IMAGES = pytest.mark.parametrize("image", [AIRFLOW, TRAINER, SERVER], ids=["airflow", "trainer", "server"])
MAX_BYTES = 200_000
SECRETS = re.compile(
    rb"-----BEGIN [A-Z ]*PRIVATE KEY|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{30,}|\bxox[abps]-\w{10,}|\bhf_\w{30,}"
)
NVIDIAS = re.compile(r"(nvidia|cuda)-[\w-]+|triton")


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([\w.-]+)(?:\[.*\])?==(\S+)", (ROOT / lock).read_text()))


@IMAGES
def test_hadolint_finds_nothing(image: Image) -> None:
    linter = Path(sys.prefix, "bin", "hadolint")
    done = subprocess.run([linter, "--no-color", image.path], check=False, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("", 0)


@IMAGES
def test_what_is_copied_exists_in_a_clean_checkout_and_is_sent(image: Image) -> None:
    for path in image.copied:
        assert any(file == path or file.startswith(f"{path}/") for file in tracked()), path
    assert [file for file in files_of(image, tracked()) if not is_sent(file)] == []


@IMAGES
def test_no_secret_and_no_weights_are_copied(image: Image) -> None:
    for file in files_of(image, tracked()):
        content = (ROOT / file).read_bytes()
        assert len(content) < MAX_BYTES, file
        assert b"\0" not in content, file
        assert not SECRETS.search(content), file


@pytest.mark.parametrize(
    "stray",
    [
        ".git/config",
        ".env",
        ".tradewind/default/secrets/secrets.json",
        ".venv/bin/python",
        "include/models/flight_delays/.env",
        "include/models/flight_delays/weights.onnx",
        "include/models/flight_delays/checkpoint.pt",
        "include/models/flight_delays/rows.parquet",
        "include/models/flight_delays/weights.h5",
        "include/models/flight_delays/weights.gguf",
        "include/models/flight_delays/rows.jsonl",
        "include/models/flight_delays/rows.csv.gz",
        "include/lake/service-account.pem",
        "include/lake/id_rsa",
        "include/kubeconfig",
        "include/__pycache__/errors.cpython-311.pyc",
        "dags/.netrc",
        "tests/conftest.py",
        "notes.py",
    ],
)
def test_what_lies_about_is_not_sent(stray: str) -> None:
    assert not is_sent(stray)


@IMAGES
def test_the_base_is_one_exact_release_of_the_locks_python(image: Image) -> None:
    text = image.path.read_text()
    assert re.findall(r"(?m)^FROM (.*)$", text) == ["${PYTHON} AS build", "${PYTHON}"]
    (base,) = re.findall(r"(?m)^ARG PYTHON=(.*)$", text)
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-[a-z]+", base)
    assert base in TRAINER.path.read_text()


@IMAGES
def test_the_image_is_what_the_build_made(image: Image) -> None:
    build, final = image.stages
    assert {word for word, _ in (*build, *final)} <= {
        *("FROM", "ARG", "WORKDIR", "COPY", "RUN", "ENV", "LABEL", "USER", "ENTRYPOINT", "CMD")
    }
    copies = [rest for word, rest in final if word == "COPY"]
    assert copies[:2] == [f"--from=build {folder} {folder}" for folder in ("/opt/venv", "/opt/tradewind")]
    assert all(copy.startswith("--from=build /opt/tradewind/") for copy in copies[2:])
    assert image.last("ENTRYPOINT") == '["tini", "--"]'
    assert {word for word, rest in final if word == "RUN" and "chown" in rest} == set()  # the code is root's


def test_the_users_are_those_that_the_cluster_asks_for() -> None:
    asked = Security()
    assert {TRAINER.last("USER"), SERVER.last("USER")} == {f"{asked.run_as_user}:{asked.run_as_group}"}
    assert AIRFLOW.last("USER") == "50000:0"  # as Airflow's own image and its Helm chart have it


@IMAGES
def test_the_commit_is_in_the_code_and_in_a_label(image: Image) -> None:
    assert 'org.opencontainers.image.revision="${COMMIT}"' in image.last("LABEL")
    assert image.commands()[1].startswith('python -m include.training.commit "${COMMIT}" && ')
    assert "TRADEWIND_COMMIT" not in image.env  # it would speak for code that is not the image's, too


@IMAGES
def test_no_secret_is_an_argument_or_a_variable(image: Image) -> None:
    names = re.findall(r"(?m)^(?:ARG|ENV) (\w+)", image.path.read_text()) + list(image.env)
    assert [name for name in names if re.search("TOKEN|PASSWORD|SECRET|KEY|INDEX|CREDENTIAL", name)] == []


def test_the_trainers_locks_are_parts_of_the_whole() -> None:
    whole, train, cuda = (pins(f"requirements{part}.txt") for part in ("", "-train", "-train-cuda"))
    assert train.items() <= whole.items()
    assert train.items() <= cuda.items()
    assert [name for name in cuda.keys() - train if not NVIDIAS.fullmatch(name)] == []
    assert {"nvidia-nccl-cu13", "nvidia-cudnn-cu13"} <= cuda.keys()
    assert [name for name in cuda if re.match("apache-airflow|kubernetes|mlflow|feast", name)] == []


def test_the_servers_lock_is_small_and_has_the_versions_of_the_whole() -> None:
    whole, serve = pins("requirements.txt"), pins("requirements-serve.txt")
    assert {name: version for name, version in serve.items() if whole.get(name) != version} == {
        "onnxruntime": whole["onnxruntime-gpu"]  # the same release, built for CPUs
    }
    heavy = "apache-airflow|torch|mlflow|feast|pandas|deltalake|duckdb|scipy|kubernetes|great-expectations|sympy"
    assert [name for name in serve if re.match(heavy, name)] == []


@IMAGES
def test_a_build_installs_the_locks_that_it_copies(image: Image) -> None:
    install = image.commands()[0]
    (named,) = re.findall(r"include\.runtime\.packages install (\S+)", install)
    defaults = dict(re.findall(r"(?m)^ARG (\w+)=(\S+)$", image.path.read_text()))
    assert defaults.get(named.strip('"${}'), named) in image.copied

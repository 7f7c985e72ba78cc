from __future__ import annotations

import json
from pathlib import Path

import pytest

from include.errors import BadInputError, CorruptArtifactError, NotFoundError
from include.registry.package import MANIFEST, folder_of, read_package, write_package

CONTENTS = {"model.onnx": b"graph", "encoding.json": b'{"a": 1}'}


@pytest.fixture
def uri(tmp_path: Path) -> str:
    write_package(str(tmp_path / "package"), model="m", job_key="job-1", contents=CONTENTS)
    return str(tmp_path / "package")


def test_what_was_written_is_read(uri: str) -> None:
    package = read_package(f"file://{uri}")
    assert (package.model, package.created_by_job, package.uri) == ("m", "job-1", uri)
    assert dict(package.contents) == CONTENTS
    assert package.json("encoding.json") == {"a": 1}


def test_the_digest_is_that_of_the_sorted_lines(uri: str) -> None:
    import hashlib

    manifest = json.loads((Path(uri) / MANIFEST).read_text())
    lines = "".join(f"{name} {manifest['files'][name]}\n" for name in sorted(manifest["files"]))
    assert manifest["digest"] == hashlib.sha256(lines.encode()).hexdigest()


@pytest.mark.parametrize("name", list(CONTENTS))
def test_a_flipped_byte_is_found(uri: str, name: str) -> None:
    (Path(uri) / name).write_bytes(b"grapi")
    with pytest.raises(CorruptArtifactError, match=rf"{name} must match its recorded digest; got SHA-256"):
        read_package(uri)


def test_a_missing_file_is_found(uri: str) -> None:
    (Path(uri) / "model.onnx").unlink()
    with pytest.raises(CorruptArtifactError, match=r"model\.onnx must match its recorded digest; got no such file"):
        read_package(uri)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"model": "m", "files": [], "digest": "", "created_by_job": ""}'])
def test_a_damaged_manifest_is_found(uri: str, text: str) -> None:
    (Path(uri) / MANIFEST).write_text(text)
    with pytest.raises(CorruptArtifactError, match=r"package\.json must match"):
        read_package(uri)


def test_a_manifest_that_hides_a_changed_file_is_found(uri: str) -> None:
    manifest = json.loads((Path(uri) / MANIFEST).read_text())
    del manifest["files"]["model.onnx"]
    (Path(uri) / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CorruptArtifactError, match="another digest than its own list"):
        read_package(uri)


def test_no_manifest_is_no_package(uri: str) -> None:
    (Path(uri) / MANIFEST).unlink()
    with pytest.raises(NotFoundError, match=r"package\.json"):
        read_package(uri)


def test_an_equal_package_is_left_alone_and_a_damaged_one_is_mended(uri: str) -> None:
    before = (Path(uri) / "model.onnx").stat().st_mtime_ns
    write_package(uri, model="m", job_key="job-1", contents=CONTENTS)
    assert (Path(uri) / "model.onnx").stat().st_mtime_ns == before
    (Path(uri) / "model.onnx").write_bytes(b"damaged")
    write_package(uri, model="m", job_key="job-1", contents=CONTENTS)
    assert dict(read_package(uri).contents) == CONTENTS


@pytest.mark.parametrize("name", ["../evil", "a/b", ".hidden", MANIFEST])
def test_a_name_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadInputError, match="plain names"):
        write_package(str(tmp_path), model="m", job_key="j", contents={name: b""})


def test_a_json_file_that_is_none_is_corrupt(uri: str) -> None:
    with pytest.raises(CorruptArtifactError, match=r"model\.onnx as JSON"):
        read_package(uri).json("model.onnx")


def test_a_file_uri_is_the_path_it_names() -> None:
    assert folder_of("file:///a%20b/c/") == "/a b/c"
    assert folder_of("s3://bucket/c/") == "s3://bucket/c"

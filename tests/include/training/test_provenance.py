"""Which packages took part in a training, by what its process has loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version


def loaded(imports: str) -> dict[str, str]:
    ask = "import json; from include.training.provenance import loaded_packages; print(json.dumps(loaded_packages()))"
    done = subprocess.run([sys.executable, "-c", f"{imports}; {ask}"], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def test_a_package_is_named_whatever_its_module_is_called() -> None:
    found = loaded("import dateutil, sklearn, yaml")
    for name in ("python-dateutil", "scikit-learn", "PyYAML", "scipy"):
        assert found[name] == version(name)


def test_no_package_is_looked_for_when_all_are_known() -> None:
    """What each training loads; looking through all that are installed takes up to a second."""
    imports = (
        "import importlib.metadata as m; m.packages_distributions = None; import torch, onnx, onnxruntime, pyarrow"
    )
    assert loaded(f"{imports}, pydantic, google.protobuf")["torch"] == version("torch")

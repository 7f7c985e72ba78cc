"""What the Dockerfiles say, and the folders that their images would hold, put together without a container engine."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from docker.utils.build import PatternMatcher

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
CODE = "/opt/tradewind"
PACKAGES = "/opt/venv"


@dataclass(frozen=True)
class Image:
    """One Dockerfile, instruction by instruction, in two stages: the first builds, the second is the image."""

    path: Path

    @property
    def stages(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Instruction and the rest of its line, of each stage; what comes before the first stage is left out."""
        text = "\n".join(line for line in self.path.read_text().splitlines() if not line.startswith("#"))
        lines = [line for line in text.replace("\\\n", " ").splitlines() if line.strip()]
        split = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines)]
        build, final = (number for number, (word, _) in enumerate(split) if word == "FROM")
        return split[build:final], split[final:]

    @property
    def copied(self) -> Iterator[str]:
        """The paths of the repository that the build copies, a folder without its slash."""
        for word, rest in self.stages[0]:
            if word == "COPY":
                *sources, _ = shlex.split(rest)
                yield from (source.removesuffix("/") for source in sources)

    @property
    def env(self) -> dict[str, str]:
        """The image's environment, beside PATH."""
        words = [word for name, rest in self.stages[1] if name == "ENV" for word in shlex.split(rest)]
        return {name: value for name, _, value in (word.partition("=") for word in words) if name != "PATH"}

    def last(self, instruction: str) -> str:
        """What the image's last instruction of a kind says."""
        return [rest for word, rest in self.stages[1] if word == instruction][-1]

    def commands(self) -> list[str]:
        """The shell commands of the build, without its mounts."""
        runs = [rest for word, rest in self.stages[0] if word == "RUN"]
        return [" ".join(word for word in run.split() if not word.startswith("--mount=")) for run in runs]


AIRFLOW = Image(ROOT / "docker" / "Dockerfile")
TRAINER = Image(ROOT / "docker" / "Dockerfile.train")
SERVER = Image(ROOT / "docker" / "Dockerfile.serve")


@cache
def tracked() -> frozenset[str]:
    """The files of a clean checkout."""
    return _git_files()


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file into the build."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    matcher = PatternMatcher([line for line in lines if line and not line.startswith("#")])
    return not matcher.matches(path)


def files_of(image: Image, known: frozenset[str]) -> list[str]:
    """The known files that a build copies, whatever .dockerignore says."""
    return sorted(file for file in known if any(file == path or file.startswith(f"{path}/") for path in image.copied))


@dataclass(frozen=True, kw_only=True)
class Assembled:
    """The folder of an image's code, with packages beside it.

    Args:
        image: The image.
        code: What /opt/tradewind would be.
        packages: What /opt/venv would be.
    """

    image: Image
    code: Path
    packages: Path

    def place(self, text: str) -> str:
        """A text of the Dockerfile with its paths here."""
        return text.replace(PACKAGES, str(self.packages)).replace(CODE, str(self.code))

    def env(self, **more: str) -> dict[str, str]:
        """The environment of the image's processes."""
        path = f"{self.packages / 'bin'}:{os.environ['PATH']}"
        image = {name: self.place(value) for name, value in self.image.env.items()}
        return {"PATH": path, "HOME": str(self.code.parent)} | image | more

    def build(self, number: int, **arguments: str) -> None:
        """Run one of the build's commands as it stands there, with build arguments."""
        command = self.place(self.image.commands()[number])
        subprocess.run(["sh", "-euc", command], cwd=self.code, env=os.environ | arguments, check=True)


def assemble(image: Image, folder: Path, *, packages: Path = Path(sys.prefix)) -> Assembled:
    """Copy what an image's build would, untracked code of this working tree too."""
    for file in files_of(image, _git_files("--others", "--exclude-standard")):
        if is_sent(file):
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target)
    return Assembled(image=image, code=folder, packages=packages)


def _git_files(*options: str) -> frozenset[str]:
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", *options], cwd=ROOT, capture_output=True, check=True)
    names = listed.stdout.decode().split("\0")
    return frozenset(name for name in names if name and (ROOT / name).is_file())

"""Keeps pytest from importing these files: each runs in an environment of its own, whose packages are not here."""

collect_ignore_glob = ["*.py"]

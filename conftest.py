"""Loads the test kit for every test, whichever folder pytest is asked for."""

pytest_plugins = ["include.testing.plugin"]

"""The test kit: for tests of operators, sensors and Dags that use Tradewind.

It is the one part of `include` that imports Airflow, since running a task through Airflow's own task runner is its
purpose. Nothing but tests imports it, and import-linter holds both.
"""

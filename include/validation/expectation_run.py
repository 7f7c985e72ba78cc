"""Great Expectations over one partition's tables: which rows are bad, what failed, and Data Docs that show it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from include.errors import InconclusiveError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa

DATA_DOCS = "gx/data_docs/index.html"
_ROW_LEVEL = "warning"

# No usage statistics, no progress bars in task logs, and Data Docs beside the suite instead of under `uncommitted/`.
_CONTEXT = {
    "config_version": 4.0,
    "analytics_enabled": False,
    "progress_bars": {"globally": False},
    "plugins_directory": "plugins/",
    "config_variables_file_path": "config_variables.yml",
    "stores": {
        name: {
            "class_name": class_name,
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": f"{name.removesuffix('_store')}/",
                "suppress_store_backend_id": True,
            },
        }
        for name, class_name in (
            ("expectations_store", "ExpectationsStore"),
            ("validation_results_store", "ValidationResultsStore"),
            ("checkpoint_store", "CheckpointStore"),
            ("validation_definition_store", "ValidationDefinitionStore"),
        )
    },
    "expectations_store_name": "expectations_store",
    "validation_results_store_name": "validation_results_store",
    "checkpoint_store_name": "checkpoint_store",
    "data_docs_sites": {
        "local_site": {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": "data_docs/"},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
    },
}


@dataclass(frozen=True, kw_only=True)
class TableReport:
    """What the expectations say about one table.

    Args:
        bad_rows: Index of each bad row, with the descriptions of the row-level expectations that it fails.
        failures: One line for each expectation that forbids the partition.
    """

    bad_rows: Mapping[int, Sequence[str]]
    failures: Sequence[str]


def silence_great_expectations() -> None:
    """Keep out of the log the two hundred lines that Great Expectations writes when it is imported; call it before."""
    logging.getLogger("great_expectations").setLevel(logging.WARNING)


def run_expectations(
    *, tables: Mapping[str, pa.Table], suites: Mapping[str, Sequence[Any]], folder: Path
) -> dict[str, TableReport]:
    """Check each table against its expectations, in a File context below `folder`.

    An expectation with severity `warning` judges rows: those that fail it are bad, and the partition is refused only if
    fewer than its `mostly` pass. One with severity `critical` judges the partition.

    Args:
        tables: Rows by table name.
        suites: Expectations by table name, each with a description.
        folder: Empty folder; gets the context in `gx/`, with the Data Docs at `DATA_DOCS`.

    Raises:
        InconclusiveError: An expectation could not be evaluated.
    """
    silence_great_expectations()
    import great_expectations as gx

    project = folder / "gx"
    project.mkdir(parents=True)
    (project / "great_expectations.yml").write_text(yaml.safe_dump(_CONTEXT), encoding="utf-8")
    (project / "config_variables.yml").write_text("{}\n", encoding="utf-8")
    context = gx.get_context(mode="file", project_root_dir=str(folder))
    source = context.data_sources.add_pandas("lake")
    reports = {}
    for name, table in tables.items():
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=list(suites[name])))
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("partition")
        definition = context.validation_definitions.add(gx.ValidationDefinition(name=name, data=batch, suite=suite))
        outcome = definition.run(
            batch_parameters={"dataframe": table.to_pandas()},
            result_format={"result_format": "COMPLETE", "return_unexpected_index_query": False},
        )
        reports[name] = _report(name, outcome.results)
    context.build_data_docs()
    return reports


def _report(table: str, results: Sequence[Any]) -> TableReport:
    bad_rows: dict[int, list[str]] = {}
    failures = []
    for result in results:
        config = result.expectation_config
        if error := _exception(result.exception_info or {}):
            raise InconclusiveError(
                f"expectation {config.description!r} of table {table!r} must be evaluated; got {error}. Nothing was "
                "published. Mend the model's expectations.py."
            )
        if config.severity == _ROW_LEVEL:
            for index in result.result["unexpected_index_list"]:
                bad_rows.setdefault(index, []).append(config.description)
        if not result.success:
            failures.append(f"{table}: {config.description}; got {_observed(result.result)}")
    return TableReport(bad_rows=dict(sorted(bad_rows.items())), failures=failures)


def _exception(info: Mapping[str, Any]) -> str | None:
    """Return what was raised: one exception of the expectation, or one for each metric that it needs, by metric."""
    for found in (info, *(value for value in info.values() if isinstance(value, dict))):
        if found.get("raised_exception"):
            return str(found.get("exception_message"))
    return None


def _observed(result: Mapping[str, Any]) -> str:
    if "unexpected_count" in result:
        return f"{result['unexpected_count']} of {result['element_count']} rows that do not"
    return str(result.get("observed_value"))

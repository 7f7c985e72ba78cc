"""The model card: one page a person reads before the version serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from include.spec import ModelSpec
    from include.tasks import Task

_MAX_VALUES = 12
_HELD_OUT = (
    "On the newest {num_rows} rows of the window, {first} to {last}. The network did not learn from them, but they "
    "chose when it stopped learning."
)
_LIMITS = (
    "It knows {store} only as of the last materialization. A category that training never saw, or a missing number, is "
    "an input like any other, with less to go by. Few rows in a slice say little about it."
)


def render_card(*, spec: ModelSpec, lock: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """Return a version's card in Markdown.

    Args:
        spec: The model.
        lock: What `lock.json` holds.
        metrics: What `metrics.json` holds.
    """
    task = task_of(spec)
    window, held_out = lock["snapshot"]["partitions"], metrics["held_out"]
    parts = [
        f"# {spec.name}",
        spec.description,
        f"Predicts **{spec.label.name}**: {spec.label.description} Owner: {spec.owner}.",
        "## Made from",
        _table(
            ("", ""),
            [
                ("training window", f"{window[0]} to {window[-1]}, {lock['snapshot']['num_rows']} rows"),
                ("snapshot", f"`{lock['snapshot']['sha256'][:16]}`"),
                ("commit", f"`{lock['commit']}`"),
                ("job", f"`{lock['job_key']}`, seed {lock['seed']}"),
            ],
        ),
        "## How good",
        _HELD_OUT.format(num_rows=held_out["num_rows"], first=held_out["from"][:10], last=held_out["to"][:10]),
        _quality(metrics, task),
        "## Gates",
        "\n".join(f"- {gate['verdict']}: {gate['reason']}" for gate in metrics["judgement"]["gates"]),
        "## Compression",
        _compression(metrics["compression"], task),
        "## By slice",
        *[_slice(name, values, task) for name, values in metrics["slices"].items()],
        "## Limits",
        _LIMITS.format(store=", ".join(spec.features.store_fields) or "no store features"),
    ]
    return "\n\n".join(parts) + "\n"


def _quality(metrics: Mapping[str, Any], task: Task) -> str:
    champion = metrics["champion"] or {}
    named = {
        "this version": metrics["version"],
        "boosted trees": metrics["trees"],
        "baseline, one answer for all": metrics["baseline"],
        f"champion {champion.get('version')}": champion if "loss" in champion else None,
    }
    rows = [(name, *_cells(found, task)) for name, found in named.items() if found]
    return _table(("", *_headings(task)), rows)


def _compression(found: Mapping[str, Any], task: Task) -> str:
    if "int8" not in found:
        return f"fp32 serves: {'; '.join(found['reasons'])}."
    why = "it is within every limit of the spec" if found["serves"] == "int8" else "; ".join(found["reasons"])
    rows = [
        (
            name,
            *_cells(found[name], task),
            f"{found[name]['size_bytes'] / 1024:.0f}",
            *(f"{median:.0f}" for median in found[name]["latency_us"].values()),
        )
        for name in ("fp32", "int8")
    ]
    timed = [f"us for {count} rows" for count in found["fp32"]["latency_us"]]
    table = _table(("", *_headings(task), "KiB", *timed), rows)
    verdict = "used" if found["serves"] == "int8" else "not used"
    return f"int8 is {verdict}: {why}. Both agree on {found['agreement_frac']:.2%} of the rows.\n\n{table}"


def _slice(name: str, values: Mapping[str, Any], task: Task) -> str:
    rows = [
        (value, str(found["num_rows"]), *_cells(found, task)) for value, found in list(values.items())[:_MAX_VALUES]
    ]
    left_out = f"\n\n{len(values) - _MAX_VALUES} smaller ones: metrics.json." if len(values) > _MAX_VALUES else ""
    return _table((name, "rows", *_headings(task)), rows) + left_out


def _headings(task: Task) -> tuple[str, ...]:
    return (task.loss_name, *task.metric_names.values())


def _cells(found: Mapping[str, Any], task: Task) -> tuple[str, ...]:
    return tuple(_number(found[name]) for name in ("loss", *task.metric_names))


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

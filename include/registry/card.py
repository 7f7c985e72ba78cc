"""The model card: one page a person reads before the version serves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from include.spec import ModelSpec

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
        _quality(metrics),
        "## Gates",
        "\n".join(f"- {gate['verdict']}: {gate['reason']}" for gate in metrics["judgement"]["gates"]),
        "## Compression",
        _compression(metrics["compression"]),
        "## By slice",
        *[_slice(name, values) for name, values in metrics["slices"].items()],
        "## Limits",
        _LIMITS.format(store=", ".join(spec.features.store_fields) or "no store features"),
    ]
    return "\n\n".join(parts) + "\n"


def _quality(metrics: Mapping[str, Any]) -> str:
    champion = metrics["champion"] or {}
    named = {
        "this version": metrics["version"],
        "boosted trees": metrics["trees"],
        "base rate": metrics["base_rate"],
        f"champion {champion.get('version')}": champion if "log_loss" in champion else None,
    }
    rows = [
        (name, _number(found["log_loss"]), _number(found["auc"]), _number(found["ece"]))
        for name, found in named.items()
        if found
    ]
    return _table(("", "log loss", "AUC", "calibration error"), rows)


def _compression(found: Mapping[str, Any]) -> str:
    if "int8" not in found:
        return f"fp32 serves: {'; '.join(found['reasons'])}."
    why = "it is within every limit of the spec" if found["serves"] == "int8" else "; ".join(found["reasons"])
    rows = [
        (
            name,
            _number(found[name]["log_loss"]),
            _number(found[name]["auc"]),
            f"{found[name]['size_bytes'] / 1024:.0f}",
            *(f"{median:.0f}" for median in found[name]["latency_us"].values()),
        )
        for name in ("fp32", "int8")
    ]
    timed = [f"us for {count} rows" for count in found["fp32"]["latency_us"]]
    table = _table(("", "log loss", "AUC", "KiB", *timed), rows)
    verdict = "used" if found["serves"] == "int8" else "not used"
    return f"int8 is {verdict}: {why}. Same decision on {found['agreement_frac']:.2%} of the rows.\n\n{table}"


def _slice(name: str, values: Mapping[str, Any]) -> str:
    rows = [
        (
            value,
            str(found["num_rows"]),
            _number(found["positive_frac"]),
            _number(found["log_loss"]),
            _number(found["auc"]),
        )
        for value, found in list(values.items())[:_MAX_VALUES]
    ]
    left_out = f"\n\n{len(values) - _MAX_VALUES} smaller ones: metrics.json." if len(values) > _MAX_VALUES else ""
    return _table((name, "rows", "positive", "log loss", "AUC"), rows) + left_out


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(header), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"

"""A request that the model server would answer, made from a row of the sample."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from include.authoring.moments import moment_sql
from include.authoring.typed import TABLE, alias

if TYPE_CHECKING:
    from include.authoring.draft import Draft

FILE = "request.json"


def request_of(draft: Draft) -> str:
    """Return a request of the Open Inference Protocol v2 with the first rows of the sample that have all they need."""
    features = draft.inputs.features
    asked = {f.name: f.sql for f in features} | {view.entity: view.sql for view in draft.views}
    required = [f.name for f in features if not f.is_nullable]
    inner = f"SELECT *, {moment_sql(draft.event, timezone=draft.timezone)} AS _event_at FROM {TABLE}"  # noqa: S608 - ours
    columns = ", ".join(f"{sql} AS {alias(name)}" for name, sql in asked.items())
    present = " AND ".join(f"{alias(name)} IS NOT NULL" for name in required) or "true"
    rows = draft.rows.ask(f"SELECT * FROM (SELECT {columns} FROM ({inner})) WHERE {present} LIMIT 2")  # noqa: S608 - ours
    numeric = {f.name for f in features if f.kind == "numeric"}
    inputs = [
        {
            "name": name,
            "datatype": "FP64" if name in numeric else "BYTES",
            "shape": [rows.num_rows],
            "data": rows[name].to_pylist(),
        }
        for name in asked
    ]
    lines = ",\n ".join(json.dumps(tensor, ensure_ascii=False) for tensor in inputs)
    return f'{{"inputs": [\n {lines}\n]}}\n'

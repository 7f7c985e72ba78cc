"""Shows what is wrong with a model folder as an import error: of this file alone, which holds no Dag.

Airflow stops every Dag of a file that has an import error, so the stage files leave a broken model out in silence.
"""

from __future__ import annotations

from airflow.sdk import DAG

from operators.model_dags import require_readable

require_readable({"any": lambda spec: DAG(dag_id=f"any_{spec.name}", schedule=None)})

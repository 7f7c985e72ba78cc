"""Shows what is wrong with a model folder as an import error: of this file alone, which holds no Dag.

Airflow stops every Dag of a file that has an import error, so the stage files leave a broken model out in silence.
"""

from __future__ import annotations

from operators.model_dags import require_readable_specs

require_readable_specs()

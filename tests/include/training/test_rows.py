"""Rows are encoded some after the others, and come out as if all at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest

from include.training.rows import columns_of, load_rows
from tests.snapshots import small_job, small_table

if TYPE_CHECKING:
    from include.lake.storage import Storage


@pytest.mark.parametrize("num_rows", [1, 7, 400])
def test_rows_are_encoded_alike_in_any_number_at_once(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, num_rows: int
) -> None:
    whole = small_table(400)
    table = pa.concat_tables([whole.slice(0, 150), whole.slice(150)])
    monkeypatch.setattr("include.training.rows._ENCODED_ROWS", num_rows)
    rows = load_rows(small_job(storage, table=table), storage=storage)
    categorical_BC, numeric_BN = rows.encoding.encode(columns_of(whole, rows.encoding))
    assert np.array_equal(rows.categorical_BC, categorical_BC)
    assert np.array_equal(rows.numeric_BN, numeric_BN, equal_nan=True)
    assert np.isnan(rows.numeric_BN).any()

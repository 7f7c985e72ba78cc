"""Samples as people have them: a binary, a multi-class and a regression label, with what makes inference hard."""

from __future__ import annotations

import csv
import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

FIRST = datetime(2024, 1, 1, tzinfo=UTC)


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(rows)
    return path


def churn(path: Path, num_rows: int = 3000) -> Path:
    """Binary; times without a zone, NA for none, a reason that gives the outcome away, a constant, an id."""
    random_ = random.Random(1)
    rows = []
    for number in range(num_rows):
        plan, calls = random_.choice(["basic", "plus", "pro"]), random_.randint(0, 8)
        has_churned = random_.random() < 0.05 + 0.06 * calls * (plan == "basic") + 0.02 * calls
        fee = round(random_.gauss({"basic": 10, "plus": 20, "pro": 40}[plan], 3), 2)
        age = "NA" if random_.random() < 0.1 else random_.randint(18, 80)
        reason = random_.choice(["price", "moved"]) if has_churned else ""
        at = f"{FIRST + timedelta(minutes=85 * number):%Y-%m-%d %H:%M}"
        row = [f"C{number:06d}", at, plan, random_.choice("NSEW"), fee, calls, "DE", age, reason]
        rows.append([*row, "Yes" if has_churned else "No"])
    columns = ["customer_id", "Signup Date", "plan", "region", "fee", "calls", "country", "age", "reason", "churned"]
    return write_csv(path, columns, rows)


def fruit(path: Path, num_rows: int = 2400) -> Path:
    """Multi-class; times with a zone, days as partitions, a semicolon, zip codes."""
    random_ = random.Random(2)
    rows = []
    for number in range(num_rows):
        kind = random_.choice(["apple", "pear", "plum"])
        weight = round(random_.gauss({"apple": 150, "pear": 170, "plum": 60}[kind], 25), 1)
        at = (FIRST + timedelta(minutes=5 * number)).isoformat().replace("+00:00", "Z")
        rows.append([number, at, weight, random_.choice(["x", "y"]), f"0{random_.randint(1000, 1020)}", kind])
    return write_csv(path, ["id", "picked_at", "weight", "tree", "zip", "kind"], rows, delimiter=";")


def rent(path: Path, num_rows: int = 2600) -> Path:
    """Regression; a date as text, day first, some labels missing, a text among numbers."""
    random_ = random.Random(3)
    rows = []
    for number in range(num_rows):
        area, district = random_.randint(20, 150), random_.choice(["Mitte", "Nord", "Süd"])
        price: Any = round(8 * area + {"Mitte": 400, "Nord": 0, "Süd": 150}[district] + random_.gauss(0, 180), 2)
        rooms = "many" if number % 50 == 7 else max(1, area // 25)
        day = f"{FIRST + timedelta(hours=3 * number):%d.%m.%Y}"
        rows.append([number + 1, day, area, district, rooms, "" if number % 25 == 3 else price])
    return write_csv(path, ["offer_id", "listed on", "area", "District", "rooms", "rent"], rows)

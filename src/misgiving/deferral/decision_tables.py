"""The table of decisions that `misgiving predict` writes: a data frame, a row for each case.

The first column names the case; the others are those of `Decisions.to_frame`. In a file it is CSV,
Parquet or JSON lines, by the suffix.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow

from misgiving.csv_tables import csv_lines
from misgiving.errors import UsageError
from misgiving.files import whole_file

if TYPE_CHECKING:
    from pandas import DataFrame

KINDS = (".csv", ".parquet", ".jsonl")  # by suffix


def with_reviews(table: "DataFrame", reviews: int) -> "DataFrame":
    """Defer the least certain of the accepted cases, until people have so many to look at.

    Those that the policy does not accept are among these, however many they are.
    """
    is_accepted = table["decision"] == "accept"
    more = max(0, reviews - int((table["decision"].notna() & ~is_accepted).sum()))
    certain = table["acceptance_score"][is_accepted]
    least = certain.sort_values(kind="stable").index[:more]
    table = table.copy()
    table.loc[least, "decision"] = "defer"
    table.loc[least, "reason"] = f"among the {reviews} least certain of these cases"
    return table


def csv_table(table: "DataFrame") -> Iterator[str]:
    """Lines of comma-separated values: numbers in six digits, and None as an empty cell."""
    cells = (
        [value if isinstance(value, str) else f"{value:.6g}" for value in row]
        for row in table.astype(object).where(table.notna(), "").itertuples(index=False, name=None)
    )
    return csv_lines([*table.columns], cells)


def check_kind(path: Path) -> None:
    """Check that there is a kind of table with this suffix.

    Raises:
        UsageError: There is none.
    """
    if path.suffix.lower() not in ("", *KINDS):
        raise UsageError(f"{path}: choose a name that ends in {', '.join(KINDS)}")


def write_table(path: Path, table: "DataFrame") -> None:
    """Write a table, whole or not at all; its kind is that of the suffix, or CSV."""
    suffix = path.suffix.lower()
    with whole_file(path) as temporary:
        if suffix == ".parquet":
            numbers, texts = pyarrow.float64(), pyarrow.string()  # also where all are missing
            kinds = [numbers if kind.kind == "f" else texts for kind in table.dtypes]
            schema = pyarrow.schema([*zip(table.columns, kinds, strict=True)])
            table.to_parquet(temporary, index=False, schema=schema)
        elif suffix == ".jsonl":
            rows = table.astype(object).where(table.notna(), None).to_dict("records")
            temporary.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        else:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                file.writelines(csv_table(table))

"""Parquet files, of which a few bytes may stand for gigabytes."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from misgiving.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

MOST_TEXT = 2**30  # bytes of all texts of a table: a million rows with ids and paths have a fifth
CELL_BYTES = 100  # of a cell that is no number with a fraction: it becomes a text
SHARE_OF_MEMORY = 0.5  # that the numbers of a table may take


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> "pa.Table":
    """Read a table, whose size is counted before it is in memory.

    The metadata tell the number of values. Each may be a long text that a dictionary holds once:
    texts are read as dictionaries, and counted before they are made from these.

    Raises:
        DataError: It would take too much memory.
    """
    import pyarrow as pa
    from pyarrow import compute
    from pyarrow.parquet import ParquetFile  # a tenth of a second

    file = ParquetFile(path)
    leaves = [*map(file.schema.column, range(len(file.schema)))]
    nested = [x.path for x in leaves if x.path != x.name and "BYTE_ARRAY" in x.physical_type]
    if columns is None and nested:
        raise DataError(f"{path}: {nested[0]} has several texts for each row; give one")
    top = [leaf.path.partition(".")[0] for leaf in leaves]
    chosen = [at for at, name in enumerate(top) if columns is None or name in columns]
    check_size(path, sum(_size(file, at) for at in chosen))
    kinds = {field.name: _plain(field.type) for field in file.schema_arrow}
    is_text = pa.types.is_string, pa.types.is_large_string, pa.types.is_binary
    texts = [name for name, kind in kinds.items() if any(is_kind(kind) for is_kind in is_text)]
    table, total = ParquetFile(path, read_dictionary=texts).read(columns), 0
    for name in {*texts} & {*table.column_names}:
        for chunk in table[name].chunks:
            lengths = compute.binary_length(chunk.dictionary)
            total += compute.sum(lengths.take(chunk.indices)).as_py() or 0
    if total > MOST_TEXT:
        raise DataError(
            f"{path}: its texts would take {total / 2**30:.1f} GiB, more than 1; split it"
        )
    fields = [pa.field(field.name, kinds[field.name]) for field in table.schema]
    return table.cast(pa.schema(fields, metadata=table.schema.metadata))


def _size(file: "ParquetFile", at: int) -> int:
    """Bytes of a column, without what a dictionary holds once."""
    column = file.schema.column(at)
    is_float = column.physical_type in ("FLOAT", "DOUBLE")
    each = 8 if is_float else max(CELL_BYTES, column.length)
    groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
    parts = [group.column(at) for group in groups]
    return sum(max(each * part.num_values, part.total_uncompressed_size) for part in parts)


def _plain(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def check_size(path: Path, size: int) -> None:
    """Check that so many bytes are not more than half of the memory.

    Raises:
        DataError: They are.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > SHARE_OF_MEMORY * memory:
        raise DataError(
            f"{path}: would take {size / 2**30:.1f} GiB, more than half of the memory; split it"
        )

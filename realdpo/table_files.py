"""The tables of a workspace as files that can be read: `work.clips.to_pandas()`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    _Path = Path
else:
    _Path = type(Path())  # before Python 3.12 only the system's own kind of path has children


class TableFile(_Path):
    """The path of a table. Reading raises UserError when it is missing or damaged."""

    KIND: ClassVar[str]  # name of its schema in `realdpo.tables`

    def to_arrow(self, columns: list[str] | None = None) -> pa.Table:
        """The table, or some of its columns."""
        from realdpo import tables

        return tables.read_table(self, getattr(tables, self.KIND), columns)

    def to_pandas(self, columns: list[str] | None = None) -> pd.DataFrame:
        """The table as a data frame, or some of its columns."""
        return self.to_arrow(columns).to_pandas()

    @property
    def scores(self) -> pd.DataFrame:
        """Its scores alone, `<group>.<name>` in float32; NaN where one could not be measured."""
        table = self.to_arrow()
        return table.select([name for name in table.schema.names if "." in name]).to_pandas()


class SourcesFile(TableFile):
    KIND = "SOURCES"


class ClipsFile(TableFile):
    KIND = "CLIPS"


class PairsFile(TableFile):
    KIND = "PAIRS"

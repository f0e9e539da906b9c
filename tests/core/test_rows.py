"""The types of rows are those of the tables."""

from __future__ import annotations

import types
import typing

import pyarrow as pa
import pytest

from realdpo import rows, tables

PAIRS = [
    (rows.SourceRow, tables.SOURCES.schema),
    (rows.ClipRow, tables.CLIPS.schema),
    (rows.PairRow, tables.PAIRS.schema),
]


@pytest.mark.parametrize(("row", "schema"), PAIRS, ids=lambda x: getattr(x, "__name__", ""))
def test_a_row_has_the_columns_of_its_table_in_their_types(row: type, schema: pa.Schema) -> None:
    said = typing.get_type_hints(row)
    assert list(said) == schema.names
    for field in schema:
        assert same_type(said[field.name], field.type), field.name


def same_type(said: object, stored: pa.DataType) -> bool:
    if typing.get_origin(said) is types.UnionType:  # or null
        (said,) = (part for part in typing.get_args(said) if part is not type(None))
    if pa.types.is_list(stored):
        return typing.get_origin(said) is list and same_type(
            typing.get_args(said)[0], stored.value_type
        )
    if pa.types.is_struct(stored):
        return {f.name for f in stored} == set(typing.get_type_hints(said)) and all(
            same_type(typing.get_type_hints(said)[f.name], f.type) for f in stored
        )
    plain = [
        (str, pa.types.is_string),
        (bool, pa.types.is_boolean),
        (int, pa.types.is_integer),
        (float, pa.types.is_floating),
    ]
    return any(said is kind and of(stored) for kind, of in plain)

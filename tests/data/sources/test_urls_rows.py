"""Tests which rows of a list of URLs form a unit, without downloading anything."""

import pyarrow
import pyarrow.parquet
import pytest

from t2i_tpu.data.sources import urls
from t2i_tpu.data.sources.tables.parquet_file import iterate_rows, open_parquet


@pytest.fixture
def read_units(tmp_path, monkeypatch):
    """Return a function that returns the units of a file and the rows of each."""
    monkeypatch.setattr(urls, "_import_downloader", lambda: None)
    monkeypatch.setattr(
        urls, "_download", lambda addresses: [(each.encode(), None) for each in addresses]
    )

    def read_units(num_rows, group_rows):
        columns = {"url": [f"http://a/{row}" for row in range(num_rows)], "text": ["x"] * num_rows}
        path = tmp_path / "a.parquet"
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group_rows)
        source = urls.UrlsSource(str(path), lambda *_: None, ())
        units = list(source.list_units())
        return units, [[(item.key, item.image) for item in source.read(unit)] for unit in units]

    return read_units


@pytest.mark.parametrize(
    ("num_rows", "group_rows", "sizes"),
    [
        (600, 100, [256, 256, 88]),  # units may span row groups
        (600, 600, [256, 256, 88]),
        (4096, 4096, [256] * 16),
        (5000, 5000, [313] * 15 + [305]),
        (10_000, 6000, [375] * 16 + [256] * 15 + [160]),
        (0, 100, []),
    ],
)
def test_units_cover_all_rows_once(read_units, num_rows, group_rows, sizes):
    units, rows = read_units(num_rows, group_rows)
    assert [len(each) for each in rows] == sizes
    assert [unit["stop"] - unit["start"] for unit in units] == sizes
    expected = [(f"a-{row:08d}", b"http://a/%d" % row) for row in range(num_rows)]
    assert [row for each in rows for row in each] == expected


def test_only_the_wanted_rows_of_a_group_are_read(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"a": range(100)}), tmp_path / "a.parquet")
    with open_parquet(str(tmp_path / "a.parquet")) as file:
        for start, stop in [(0, 100), (0, 1), (7, 8), (5, 25), (99, 100), (40, 40)]:
            rows = [row["a"] for row in iterate_rows(file, 0, ["a"], 8, start, stop)]
            assert rows == list(range(start, stop))

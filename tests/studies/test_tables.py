"""Tables in Markdown, read by eye and by pandas."""

import io
import math

import pandas as pd

from studies.tables import markdown_table


def test_a_table_in_markdown() -> None:
    rows = [{"text": "CLIP", "mean": 12.34, "spread": math.nan}, {"text": "MiniLM", "mean": 5.0, "spread": 0.06}]
    assert markdown_table(rows) == (
        "| text | mean | spread |\n| --- | --- | --- |\n| CLIP | 12.3 | - |\n| MiniLM | 5.0 | 0.1 |\n"
    )


def test_every_key_is_a_column_and_what_is_missing_a_dash() -> None:
    rows = [{"a_b": 3, "c": None}, {"c": True, "d": 48_000_000}]
    assert markdown_table(rows).splitlines() == [
        "| a b | c | d |",
        "| --- | --- | --- |",
        "| 3 | - | - |",
        "| - | yes | 48000000 |",
    ]
    assert markdown_table([]) == "Nothing was measured.\n"


def test_pandas_reads_the_numbers_back() -> None:
    rows = [{"name": f"n{index}", "level": index / 7} for index in range(5)]
    text = markdown_table(rows, number=lambda value: f"{value:.6f}")
    # Without the line below the heading, and the empty columns outside the outer bars.
    lines = text.splitlines()
    found = pd.read_csv(io.StringIO("\n".join([lines[0], *lines[2:]])), sep=r"\s*\|\s*", engine="python").iloc[:, 1:-1]
    pd.testing.assert_frame_equal(found, pd.DataFrame(rows), atol=1e-6, check_dtype=False)

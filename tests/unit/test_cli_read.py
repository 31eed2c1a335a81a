"""Rows of a dataset on a screen: whole columns, and the names of those that found no room."""

import io

import pandas as pd
from rich.console import Console

from spike_pipelines.cli.read import table


def shown(frame: pd.DataFrame, width: int) -> str:
    console = Console(width=width, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(table(frame, width))
    return capture.get()


def frame(columns: int, value: object = "value") -> pd.DataFrame:
    return pd.DataFrame({f"column_{number}": [value, value] for number in range(columns)})


def test_columns_that_fit_are_whole_and_the_others_are_named():
    text = shown(frame(10), 40)
    assert "column_0" in text
    assert text.count("value") == 2 * 3
    assert "column_9" in text.split("not shown:")[1].replace("\n", "")


def test_a_nested_value_is_cut_and_takes_no_other_column_s_room():
    text = shown(pd.DataFrame({"lines": [[{"campaign": n} for n in range(50)]], "id": ["a1"]}), 80)
    assert "a1" in text
    assert "…" in text
    assert "not shown" not in text


def test_one_column_is_always_shown():
    assert "value" in shown(frame(3), 12)


def test_where_all_columns_fit_nothing_is_said_of_others():
    assert "not shown" not in shown(frame(2), 80)


def test_dead_letters_say_first_why_they_are_that():
    columns = ["kafka_topic", "kafka_offset", "routed_timestamp", "value", "reason", "detail"]
    text = shown(pd.DataFrame({name: [f"a {name}"] for name in columns}), 50)
    head = text.splitlines()[1].split()
    assert head[:2] == ["reason", "detail"]
    rows = pd.DataFrame({"reason": ["mine"], "id": [1]})[["id", "reason"]]
    assert shown(rows, 50).splitlines()[1].split() == ["id", "reason"]

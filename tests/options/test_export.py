"""Options of export: their text forms."""

from __future__ import annotations

from typing import Any

import pytest

from edgetl.errors import UsageError
from edgetl.options.export import colours, seconds


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90", 90),
        ("90s", 90),
        ("10m", 600),
        ("1h", 3600),
        ("1.5m", 90),
        (" 2m ", 120),
        ("0.5", 0.5),
    ],
)
def test_budget(text: str, wanted: float) -> None:
    assert seconds("--budget", text) == wanted


@pytest.mark.parametrize(
    "text", ["", "m", "10 m", "1h30m", "-5m", "10M", "1e3", "inf", "ten", "5d"]
)
def test_budget_that_is_no_time(text: str) -> None:
    with pytest.raises(UsageError, match="is not a time") as got:
        seconds("--budget", text)
    assert "90s, 10m or 1h" in got.value.fix


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.5", (0.5, 0.5, 0.5)),
        ("0.1,0.2,0.3", (0.1, 0.2, 0.3)),
        ("123.7, 116.3, 103.5", (123.7, 116.3, 103.5)),
        ("0", (0.0, 0.0, 0.0)),
        ("1e-1,.2,3.", (0.1, 0.2, 3.0)),
    ],
)
def test_colours(text: str, values: Any) -> None:
    assert colours("--mean", text) == values


@pytest.mark.parametrize("text", ["", ",", "0.1,0.2", "1,2,3,4", "0.1;0.2;0.3", "a", "0,1 0,2 0,3"])
def test_colours_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--std .*is not one number or three"):
        colours("--std", text)

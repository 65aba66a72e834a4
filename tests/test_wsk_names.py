"""The page that maps WSK's names to ours tells the truth about both."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import attrs
import pytest

import trio_wsk
from trio_wsk import EventMask, Status

PAGE = (Path(__file__).parent.parent / "docs" / "reference" / "wsk-names.md").read_text("utf-8")
STATUS_ROW = re.compile(r"^\| `STATUS_(\w+)` \| (0x[0-9A-F]{8}) \|", re.MULTILINE)
OURS = re.compile(r"\{py:obj\}`[\w.]+ <(trio_wsk\.[\w.]+)>`")


def test_statuses_of_the_page_are_those_of_the_code() -> None:
    """Every status has a row with its value, and there is no other row."""
    expected = [(status.name, f"0x{status.value:08X}") for status in Status]

    assert expected == STATUS_ROW.findall(PAGE)


@pytest.mark.parametrize("event", list(EventMask), ids=lambda event: str(event.name))
def test_event_is_on_the_page(event: EventMask) -> None:
    """Every event has a row."""
    assert f"| `WSK_EVENT_{event.name}` | " in PAGE


@pytest.mark.parametrize(
    "slot",
    [*attrs.fields_dict(trio_wsk.ListenDispatch), *attrs.fields_dict(trio_wsk.ConnectionDispatch)],
)
def test_callback_is_on_the_page(slot: str) -> None:
    """Every callback of the dispatch tables has a row; `mask` is none."""
    assert slot == "mask" or f"Dispatch.{slot}>" in PAGE


@pytest.mark.parametrize("name", sorted(set(OURS.findall(PAGE))))
def test_name_of_ours_exists(name: str) -> None:
    """What the page calls ours is there, under the name that users write."""
    _, *parts = name.split(".")

    assert reduce(getattr, parts, trio_wsk) is not None

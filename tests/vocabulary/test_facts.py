"""Tests of `trio_wsk._vocabulary.facts`."""

from __future__ import annotations

import pytest

from trio_wsk._vocabulary.facts import Facts


class Country(str):
    """A type of its own."""

    __slots__ = ()


def test_fact_is_found_by_its_type() -> None:
    """A value is found by its own type, and by no other, not even one that it inherits from."""
    facts = Facts()
    facts.add(Country("NZ"))

    assert "NZ" == facts[Country]
    assert Country in facts
    assert str not in facts
    assert None is facts.get(str)
    assert "none" == facts.get(str, "none")
    with pytest.raises(KeyError):
        facts[str]


def test_newer_fact_takes_the_place_of_the_older() -> None:
    """There is one value of a type: the last one."""
    facts = Facts()
    facts.add(Country("NZ"))
    facts.add(7)
    facts.add(Country("AU"))

    assert ["AU", 7] == list(facts)
    assert 2 == len(facts)
    assert "Facts(['AU', 7])" == repr(facts)

"""What fuzzers have found breaks no claim."""

from __future__ import annotations

import pytest

from tests.fuzzing.claims import CLAIMS
from tests.fuzzing.corpus import CORPUS, read_corpus


@pytest.mark.parametrize("name", CLAIMS)
def test_claim_holds_of_what_was_found(name: str) -> None:
    """Octets that go a way of their own through a parser are read or refused as they must be."""
    claim = CLAIMS[name]
    found = read_corpus(name)

    assert found
    for octets in (*claim.start, *found):
        claim.check(octets)


def test_each_corpus_has_its_claim() -> None:
    """No file is left behind that nobody reads."""
    assert {path.stem for path in CORPUS.iterdir()} == {*CLAIMS}

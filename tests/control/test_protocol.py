"""The lines of the control socket's protocol."""

from __future__ import annotations

import json
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from trio_wsk.control._protocol import RefusedError, answer, request_of


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
)
@example(b'{"command": "abort", "id": NaN}')
@example(b'{"command": "abort", "id": 1e999}')
def test_any_line_is_a_request_or_refused(line: bytes) -> None:
    """Whatever a line is, it is read as a request, or refused with a text."""
    with suppress(RefusedError):
        request = request_of(line)

        assert isinstance(request.command, str)
        assert "command" not in request.arguments


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_answer_is_one_line(result: object) -> None:
    """An answer is one line, whatever is in it, and reads as what it was."""
    line = answer(result)

    assert (1, b"\n") == (line.count(b"\n"), line[-1:])
    assert {"ok": True, "result": result} == json.loads(line)

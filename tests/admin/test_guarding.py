"""Who may see the page's numbers, and who may steer: whatever a stranger's page can send."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_wsk.admin._guarding import Guard

TOKEN = "0123456789abcdef"  # noqa: S105 - a test's
SHOWN = {"authorization": f"Bearer {TOKEN}"}
OURS = {"host": "localhost:8080"}


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1",
        "127.0.0.1:8080",
        "192.0.2.1:8080",
        "[::1]",
        "[::1]:8080",
        "admin.example",
        "Admin.example:443",
    ],
)
def test_names_of_ours_are_served(host: str) -> None:
    """An address, ``localhost``, and the names that were given are this server's."""
    guard = Guard(None, ["admin.example"], is_private=True)

    assert guard.refuses_page({"host": host}) is None


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "127.0.0.1:8080.evil.example",
        "evil.example:127.0.0.1",
        "::1",
        "[::1",
        "[evil.example]",
        "127.1",
        "2130706433",
        "localhost:",
        "localhost, evil.example",
    ],
)
def test_strangers_names_are_refused(host: str) -> None:
    """A name that is a stranger's to point anywhere is refused: DNS rebinding gets nothing."""
    guard = Guard(TOKEN, ["admin.example"], is_private=True)
    headers = {"host": host, **SHOWN}

    assert [421] * 3 == [
        refuses(headers)
        for refuses in (guard.refuses_page, guard.refuses_look, guard.refuses_change)
    ]


@pytest.mark.parametrize(
    ("origin", "refused"),
    [
        ("http://localhost:8080", None),
        ("https://localhost:8080", None),
        ("http://localhost:8081", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_other_origins_are_refused(origin: str, refused: int | None) -> None:
    """What a browser says to come from another origin's page is refused, token or not."""
    guard = Guard(TOKEN, [], is_private=True)
    headers = {**OURS, **SHOWN, "origin": origin}

    assert [refused] * 3 == [
        refuses(headers)
        for refuses in (guard.refuses_page, guard.refuses_look, guard.refuses_change)
    ]


@pytest.mark.parametrize(
    ("token", "is_private", "headers", "look", "change"),
    [
        (None, True, {}, None, 403),
        (None, True, SHOWN, None, 403),
        (TOKEN, True, {}, None, 401),
        (TOKEN, True, SHOWN, None, None),
        (TOKEN, False, {}, 401, 401),
        (TOKEN, False, SHOWN, None, None),
        (TOKEN, False, {"authorization": f"bearer {TOKEN}"}, None, None),
        (TOKEN, False, {"authorization": f"Basic {TOKEN}"}, 401, 401),
        (TOKEN, False, {"authorization": TOKEN}, 401, 401),
        (TOKEN, False, {"authorization": f"Bearer {TOKEN}x"}, 401, 401),
        (TOKEN, False, {"authorization": f"Bearer {TOKEN[:-1]}"}, 401, 401),
        (TOKEN, False, {"authorization": "Bearer "}, 401, 401),
        (TOKEN, False, {"authorization": "Bearer \xe4\xf6"}, 401, 401),
        (None, False, {"authorization": "Bearer None"}, 401, 403),
    ],
)
def test_token_says_who_may(
    token: str | None,
    *,
    is_private: bool,
    headers: dict[str, str],
    look: int | None,
    change: int | None,
) -> None:
    """
    Without a token nobody steers; with one, who shows it does. To look takes it only where others
    than this machine's users can connect.
    """
    guard = Guard(token, [], is_private=is_private)
    headers = {**OURS, **headers}

    assert guard.refuses_page(headers) is None
    assert (look, change) == (guard.refuses_look(headers), guard.refuses_change(headers))


@given(st.dictionaries(st.sampled_from(["host", "origin", "authorization"]), st.text()))
def test_nothing_but_the_token_steers(headers: dict[str, str]) -> None:
    """Whatever headers say, who does not show the token can't steer, and it is no crash."""
    guard = Guard(TOKEN, [], is_private=True)
    is_shown = headers.get("authorization", "").partition(" ")[2].strip() == TOKEN

    assert is_shown or guard.refuses_change(headers) is not None

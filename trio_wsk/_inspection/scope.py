"""`VerdictScope`: what is cancelled when no verdict on a request is wanted any more."""

from __future__ import annotations

from typing import final

import trio

__all__ = ["VerdictScope"]


@final
class VerdictScope:
    """The scope of the work on one request's verdict, and the one rule for it.

    * Whoever asks for `ConnectionRequest.cancel_scope` has the same one each time.
    * An async inspector runs in it, whoever has asked for it before.
    * It is cancelled when the request ends without a verdict, for good. A request that ends after
      its verdict leaves it as it is.
    * Making a scope costs as much as making a task. So when an inspector has ended, the next
      request has the same scope, unless it was cancelled, or somebody has asked for it and may
      still have it.
    """

    __slots__ = ("_inner", "_is_shared", "_why_cancelled", "is_running")

    def __init__(self) -> None:
        self.is_running = False
        """Whether an inspector's task is in it."""
        self._inner: trio.CancelScope | None = None
        self._is_shared = False
        self._why_cancelled: str | None = None

    def inner(self) -> trio.CancelScope:
        """Return Trio's scope; made when it is needed, since most requests need none."""
        if self._inner is None:
            self._inner = trio.CancelScope()
            if self._why_cancelled is not None:
                self._inner.cancel(reason=self._why_cancelled)
        return self._inner

    def shared(self) -> trio.CancelScope:
        """Return Trio's scope to somebody who may keep it."""
        self._is_shared = True
        return self.inner()

    def cancel(self, why: str) -> None:
        """Cancel who works on the verdict, now or later."""
        self._why_cancelled = why
        if self._inner is not None:
            self._inner.cancel(reason=why)

    @property
    def is_free(self) -> bool:
        """Whether another request can have it, when no inspector runs in it."""
        return not self._is_shared and self._why_cancelled is None

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
    * A scope is entered once, so each of two stages has one of its own; whoever has got that of the
      first from the request, to work with, is cancelled with the second.
    * Making a scope costs as much as making a task. So when an inspector has ended, the next
      request has the same scope, unless it was cancelled, or somebody has asked for it and may
      still have it.
    """

    __slots__ = ("_before", "_inner", "_is_shared", "_why_cancelled", "is_running")

    def __init__(self) -> None:
        self.is_running = False
        """Whether an inspector's task is in it."""
        self._inner: trio.CancelScope | None = None
        self._is_shared = False
        self._why_cancelled: str | None = None
        self._before: VerdictScope | None = None

    def of_next_stage(self) -> VerdictScope:
        """Return the scope of the stage after the one that this is the scope of."""
        scope = VerdictScope()
        scope._before = self
        return scope

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
        if self._before is not None:
            self._before.cancel(why)

    @property
    def is_free(self) -> bool:
        """Whether another request can have it, when no inspector runs in it."""
        is_kept = self._is_shared or self._before is not None
        return not is_kept and self._why_cancelled is None

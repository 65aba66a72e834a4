"""The stages of one listening socket, made and tied together.

This is the one place where a request's way is put together, from its end to its beginning: handing
over, inspection if there is an inspector, intake. Each stage is given the next one; what goes up
again is tied by the stages themselves as they are made. All of it is there before anything runs.

What concerns all stages is here, too: opening, failing, closing.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final, final

import attrs
import trio

from trio_wsk._connection.last_words import LastWords
from trio_wsk._delivery.accept_event import AcceptEvent
from trio_wsk._delivery.dropping import Dropping
from trio_wsk._delivery.handing_over import Deliverer
from trio_wsk._inspection.driver import ConditionalAccept, next_key
from trio_wsk._inspection.uninspected import Uninspected
from trio_wsk._intake.intake import Intake, Mode
from trio_wsk._vocabulary import records
from trio_wsk._vocabulary.errors import ForcedClosedError, SocketClosedError
from trio_wsk._vocabulary.listening_state import ListeningState
from trio_wsk._vocabulary.statistics import ListeningStatistics
from trio_wsk._vocabulary.verdict import AbortReason

if TYPE_CHECKING:
    from trio_wsk._connection.block import Block
    from trio_wsk._delivery.acceptors import Acceptor
    from trio_wsk._inspection.conditions import Conditions
    from trio_wsk._intake.admission import Admission
    from trio_wsk._intake.intake import NoDescriptorsPolicy
    from trio_wsk._vocabulary.statistics import ListeningCounters
    from trio_wsk.observers import Observer
    from trio_wsk.transports._contract import Transport

    from .dispatch import ListenDispatch

__all__ = ["Plan", "Stages", "State"]


class State(enum.Enum):
    """What has become of the listening socket."""

    LISTENING = "listening"
    CLOSED = "closed"
    FAILED = "failed"


# Members of an enum are looked up anew each time, which adds up over all that is asked for
# each connection; a name of the module is not.
LISTENING: Final = State.LISTENING

_STATES: Final = {
    Mode.DELIVER: ListeningState.LISTENING,
    Mode.PAUSE: ListeningState.PAUSED,
    Mode.REFUSE: ListeningState.REFUSING,
}


@attrs.frozen(kw_only=True)
class Plan:
    """What `open_listening_socket` was told, checked; the transport is bound."""

    transport: Transport
    dispatch: ListenDispatch
    context: object
    max_parked: int
    on_no_descriptors: NoDescriptorsPolicy
    observers: list[Observer]
    conditions: Conditions | None
    """How requests are inspected; None if they are not."""


@final
class Stages:
    """All that works behind the face of one listening socket.

    Args:
      plan: What to make.
      block: Where it lives.
      counters: Where it counts.
      nursery: Where its tasks run; cancelled when the listening socket has failed.

    Raises:
      InvalidParameterError: the inspector wants what the transport can't do.
    """

    def __init__(
        self, plan: Plan, block: Block, counters: ListeningCounters, nursery: trio.Nursery
    ) -> None:
        self.transport: Final = plan.transport
        self.block: Final = block
        self.dispatch: Final = plan.dispatch
        self.nursery: Final = nursery
        self.state = LISTENING
        self.failure: OSError | None = None
        """The operating system's error, once the listening socket has failed."""
        self._counters = counters
        dropping = Dropping(block, counters)
        self.handing_over: Final = Deliverer(
            block,
            counters,
            dropping,
            AcceptEvent(plan.dispatch.accept, block, counters, dropping),
            max_parked=plan.max_parked,
            overflow="wait" if plan.conditions is None else plan.conditions.overflow.parked,
        )
        self.last_words: Final = LastWords(block)
        self.inspection: ConditionalAccept | Uninspected = Uninspected()
        admission: Admission = self.handing_over
        if plan.conditions is not None:
            assert block.inspect_key is not None
            admission = self.inspection = ConditionalAccept(
                block.inspect_key,
                plan.conditions,
                transport=plan.transport,
                handing_over=self.handing_over,
                block=block,
                counters=counters,
                dropping=dropping,
                farewell=self.last_words,
            )
            # Before it listens, so that not one of them is asked about.
            plan.transport.refuse_sources(plan.conditions.refuses)
        self.intake: Final = Intake(
            plan.transport,
            admission,
            block,
            counters,
            dropping,
            policy=plan.on_no_descriptors,
            failed=self.fail,
        )

    def open(self) -> None:
        """Listen, and begin."""
        readiness = self.transport.pump_readiness(self.nursery.start_soon)
        self.block.start(self.nursery, readiness)
        self.intake.open(readiness)

    # --- While it listens --------------------------------------------------------------

    def check_listening(self) -> None:
        """Refuse what only a listening socket can do that listens.

        Raises:
          SocketClosedError, ForcedClosedError: it does not any more. (The caller's.)
        """
        if self.state is not LISTENING:
            raise self.why_not()

    def check_running(self) -> None:
        """Refuse what needs a block that goes on, as it does while a server drains.

        Raises:
          SocketClosedError, ForcedClosedError: it has ended, or is about to. (The caller's.)
        """
        if self.state is State.FAILED or not self.block.runs:
            raise self.why_not()

    def why_not(self) -> SocketClosedError | ForcedClosedError:
        """Say why it does not listen any more."""
        if self.state is State.FAILED:
            error = ForcedClosedError(f"the listening socket has failed: {self.failure}")
            error.__cause__ = self.failure
            return error
        return SocketClosedError("the listening socket is closed")

    def queue(self, acceptor: Acceptor, *, waits: bool = True) -> None:
        """Give an acceptor what is there, or queue it.

        Args:
          acceptor: Who wants a connection.
          waits: Whether it waits for what is to come; if not, the system is asked.
        """
        self.check_listening()
        if not self.handing_over.serve(acceptor):
            self.intake.take_for_caller(waits=waits)

    def statistics(self) -> ListeningStatistics:
        """See `ListeningSocket.statistics`."""
        delivery = self.handing_over.delivery
        return self._counters.picture(
            state=self._public_state(),
            parked=delivery.parked,
            parked_most=delivery.parked_most,
            queued_accepts=delivery.acceptors,
            pending=self.inspection.pending,
            straggling=self.inspection.straggling,
            queue_depth=self.transport.queue_depth() if self.state is LISTENING else None,
            transport=self.transport.counters(),
        )

    def _public_state(self) -> ListeningState:
        if self.state is not LISTENING:
            return ListeningState(self.state.value)
        if self.block.between.draining.is_set():
            return ListeningState.DRAINING
        return _STATES[self.intake.mode]

    # --- Ending ------------------------------------------------------------------------

    def fail(self, error: OSError) -> None:
        """The listening socket itself has failed: tell everybody, once."""
        if self.state is not LISTENING:
            return
        self.failure = error
        self._end(State.FAILED, AbortReason.FAILED)
        self.block.tell(records.ListenerFailed, error=error)
        self.block.post(self._indicate_failure)

    def _indicate_failure(self) -> None:
        callback = self.dispatch.failed
        if callback is not None:
            block = self.block
            context = block.context.copy()
            block.call("failed", None, context, callback, block.listening, self.failure)
        self.nursery.cancel_scope.cancel()

    def close(self) -> None:
        """Stop listening, and end every request and Irp; idempotent."""
        self._end(State.CLOSED, AbortReason.CLOSED)

    @trio.lowlevel.enable_ki_protection  # or Ctrl-C would leave half of it open
    def _end(self, state: State, reason: AbortReason) -> None:
        if self.state is not LISTENING:
            return
        self.state = state
        self.intake.close()
        self.transport.leave()  # first: who may ask others again is not refused by us
        self.inspection.close(reason)
        self.transport.close()
        self.handing_over.close(self.why_not, state.value)

    async def aclose(self) -> None:
        """Close, and wait until everybody has been told, and inspectors have ended or had time.

        Always a checkpoint.
        """
        self.close()
        await self.inspection.settle()
        await self.block.settle()


def new_inspect_key(plan: Plan) -> int | None:
    """Number the inspections of a new listening socket, if there are any."""
    return None if plan.conditions is None else next_key()

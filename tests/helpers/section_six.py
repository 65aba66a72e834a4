"""What conditional accept is, fact by fact, and which test shows it where.

The facts are those of Microsoft's public pages, in our words; 6 is what it does, 7 what is to
be seen on the wire, 8 in which order things happen. Where the pages are silent, the row says
what is done here. `test_section_six` sees to it that each fact that can be shown is shown.

Three places show them. In memory the SYN is really withheld, and time is virtual. On real
sockets a request is inspected after the handshake, on every system; and before it, on Linux,
where the tests look at what goes over the wire.
"""

from __future__ import annotations

from typing import Final

import attrs

__all__ = ["SECTION_SIX", "Row"]


@attrs.frozen(kw_only=True)
class Row:
    """One fact."""

    number: str
    """Its name."""
    fact: str
    """In our words."""
    source: str
    """The public pages that say so; or that nobody does, and it was decided here."""
    memory: tuple[str, ...] = ()
    """The tests that show it in memory, or on the table of states alone."""
    real: tuple[str, ...] = ()
    """The tests that show it on real sockets, after the handshake."""
    before: tuple[str, ...] = ()
    """The tests that show it on real sockets, before the handshake, over a real network."""
    windows: str = ""
    """What of it describes Windows alone."""


SECTION_SIX: Final = (
    Row(
        number="6.1",
        fact="The inspector is called first for each request, with both addresses and an id, and"
        " before any part of the handshake is answered. It sees addresses, and no octets.",
        source="PFN_WSK_INSPECT_EVENT; SO_CONDITIONAL_ACCEPT",
        memory=(
            "test_syn_ack_is_withheld_until_the_verdict",
            "test_no_peek_before_the_handshake",
        ),
        real=("test_inspector_is_asked_before_anybody_has_the_connection",),
        before=(
            "test_inspector_is_asked_before_the_client_is_connected",
            "test_nothing_is_answered_before_the_verdict",
            "test_request_says_what_is_in_the_syn",
            "test_there_is_nothing_to_peek_at",
        ),
    ),
    Row(
        number="6.2",
        fact="Accepted, the handshake goes on, and the connection is delivered to a queued accept"
        " or to the accept event; or the request is aborted. Approval is not delivery.",
        source="PFN_WSK_INSPECT_EVENT, WskInspectAccept",
        memory=(
            "test_approved_client_is_gone_before_it_is_established",
            "test_peer_resets_while_parked",
        ),
        real=(
            "test_approved_connection_goes_the_way_of_any_other",
            "test_peer_that_leaves_between_approval_and_accept_is_not_delivered",
        ),
        before=(
            "test_approved_connection_goes_the_way_of_any_other",
            "test_client_that_left_while_it_was_pended_is_not_delivered",
            "test_peer_that_leaves_while_it_is_parked_is_aborted",
        ),
    ),
    Row(
        number="6.3",
        fact="Rejected, the request is dropped: neither an accept nor an abort follows.",
        source="PFN_WSK_INSPECT_EVENT, WskInspectReject; PFN_WSK_ABORT_EVENT",
        memory=(
            "test_rejected_syn_is_refused",
            "test_rejected_connection_is_reset",
        ),
        real=("test_nothing_follows_a_rejection",),
        before=("test_rejected_client_is_refused",),
    ),
    Row(
        number="6.4",
        fact="Pended, the request is kept under its id until somebody completes it, once, unless"
        " it is aborted meanwhile.",
        source="PFN_WSK_INSPECT_EVENT, WskInspectPend; PFN_WSK_INSPECT_COMPLETE",
        memory=("test_pended_request_is_completed_and_delivered",),
        real=(
            "test_pended_request_is_kept_until_it_is_completed",
            "test_second_completion_is_not_found_and_changes_nothing",
        ),
        before=("test_pended_request_is_kept_until_it_is_completed",),
    ),
    Row(
        number="6.5",
        fact="An inspect id is a key and a serial number, unique for the request, and compared by"
        " content. Here no pair comes twice, though the key does.",
        source="WSK_INSPECT_ID",
        memory=("test_retry_after_a_rejection_is_a_new_request",),
        real=("test_inspect_ids_are_values_that_never_come_twice",),
        before=("test_each_attempt_is_a_new_request",),
    ),
    Row(
        number="6.6",
        fact="The id names the request until it is accepted or aborted. After that the connection"
        " alone remembers it, and one that was not inspected has none.",
        source="WSK_INSPECT_ID; SIO_WSK_QUERY_INSPECT_ID",
        memory=("test_pended_request_is_completed_and_delivered",),
        real=(
            "test_inspector_is_asked_before_anybody_has_the_connection",
            "test_connection_that_was_not_inspected_has_no_inspect_id",
            "test_request_can_be_looked_up_until_its_abort_callback_has_returned",
        ),
        before=(
            "test_inspector_is_asked_before_the_client_is_connected",
            "test_abort_callback_may_look_the_request_up",
        ),
    ),
    Row(
        number="6.7",
        fact="Only what was pended can be completed, with yes or no. Anything else is told by a"
        " status, and disturbs no other request; which status is decided here.",
        source="PFN_WSK_INSPECT_COMPLETE",
        memory=("test_ids_that_mean_nothing",),
        real=(
            "test_completion_of_what_was_never_pended_is_not_found",
            "test_completion_with_what_decides_nothing_is_an_invalid_parameter",
        ),
        before=(
            "test_pended_request_is_kept_until_it_is_completed",
            "test_completion_that_means_nothing_disturbs_nobody",
        ),
    ),
    Row(
        number="6.8",
        fact="That a completion succeeded says that the inspection is over, and not that there is"
        " a connection.",
        source="PFN_WSK_INSPECT_COMPLETE, remarks",
        memory=("test_approved_client_is_gone_before_it_is_established",),
        real=(
            "test_peer_that_was_reset_before_its_late_approval_is_not_delivered",
            "test_pended_request_is_kept_until_it_is_completed",
        ),
        before=("test_client_that_left_while_it_was_pended_is_not_delivered",),
    ),
    Row(
        number="6.9",
        fact="Completing what was aborted is legal and harmless; there is no connection. Here it"
        " has a status of its own.",
        source="PFN_WSK_ABORT_EVENT, remarks",
        memory=("test_reset_while_pended",),
        real=("test_completion_of_what_was_aborted_is_too_late_and_harmless",),
        before=(
            "test_reset_while_there_is_no_verdict_is_an_abort",
            "test_client_that_was_missed_wrongly_comes_back",
        ),
    ),
    Row(
        number="6.10",
        fact="A rejection may race with the peer's going. Here they are decided in one place, so"
        " that whichever comes first is the request's one end.",
        source="PFN_WSK_INSPECT_COMPLETE, remarks",
        memory=(
            "test_pended_request_is_rejected_late",
            "test_order_is_kept_in_every_state",
        ),
        real=(
            "test_nothing_follows_a_rejection",
            "test_hundreds_pended_at_once_are_completed_in_any_order",
        ),
        before=(
            "test_rejected_client_is_refused",
            "test_reset_while_there_is_no_verdict_is_an_abort",
        ),
        windows="that an abort may follow one's own rejection",
    ),
    Row(
        number="6.11",
        fact="An abort is told for a request that was inspected, was not rejected, and was dropped"
        " before it was established: also for an approved one, once, and for no other.",
        source="PFN_WSK_ABORT_EVENT",
        memory=(
            "test_reset_while_pended",
            "test_approved_client_is_gone_before_it_is_established",
            "test_order_is_kept_in_every_state",
        ),
        real=(
            "test_peer_that_leaves_is_noticed_at_once",
            "test_connection_that_was_taken_is_its_owners",
            "test_newcomers_are_reset_while_too_many_are_pending",
        ),
        before=(
            "test_reset_while_there_is_no_verdict_is_an_abort",
            "test_client_that_left_while_it_was_pended_is_not_delivered",
            "test_approved_client_that_never_answers_is_aborted",
            "test_newcomers_are_refused_while_too_many_are_pending",
        ),
    ),
    Row(
        number="6.12",
        fact="It is dropped remotely, or locally. Local here: no verdict in time, no room, the"
        " listening socket closed or failed.",
        source="PFN_WSK_ABORT_EVENT; what is local is decided here",
        memory=(
            "test_time_for_a_verdict",
            "test_approved_client_never_answers",
            "test_requests_beyond_max_pending_evict",
            "test_listening_socket_fails",
        ),
        real=(
            "test_peer_that_leaves_is_noticed_at_once",
            "test_request_without_a_verdict_in_time_is_aborted",
            "test_oldest_makes_room_while_too_many_are_pending",
            "test_failure_of_the_listening_socket_is_told_once",
        ),
        before=(
            "test_reset_while_there_is_no_verdict_is_an_abort",
            "test_client_that_gives_up_is_missed_and_one_that_waits_is_not",
            "test_request_without_a_verdict_in_time_is_refused",
            "test_oldest_makes_room_while_too_many_are_pending",
            "test_closing_refuses_everybody_and_tells_every_abort",
        ),
    ),
    Row(
        number="6.13",
        fact="Closing the listening socket waits for callbacks that run. Here every request is"
        " reset, and every abort told before closing has ended.",
        source="PFN_WSK_CLOSE_SOCKET; what becomes of requests is decided here",
        memory=(
            "test_closing_aborts_what_pends",
            "test_leaving_the_block_aborts_what_pends",
        ),
        real=(
            "test_closing_aborts_every_request_before_it_returns",
            "test_leaving_the_block_aborts_every_request",
        ),
        before=(
            "test_closing_refuses_everybody_and_tells_every_abort",
            "test_closing_aborts_who_was_let_in_and_is_not_there_yet",
        ),
    ),
    Row(
        number="6.14",
        fact="Conditional accept can't be had without callbacks. Here the inspector is what turns"
        " it on, and an abort callback without one is refused.",
        source="Winsock Kernel Events; SO_CONDITIONAL_ACCEPT",
        real=(
            "test_option_that_is_wrong_is_refused_when_the_socket_is_opened",
            "test_aborts_without_a_callback_are_records_and_counts",
        ),
    ),
    Row(
        number="6.15",
        fact="Pending has no time limit of its own. Here there is always one.",
        source="PFN_WSK_INSPECT_EVENT, by its silence",
        memory=("test_time_for_a_verdict",),
        real=(
            "test_request_without_a_verdict_in_time_is_aborted",
            "test_each_request_has_its_own_time",
        ),
        before=(
            "test_request_without_a_verdict_in_time_is_refused",
            "test_there_are_two_seconds_unless_somebody_says_otherwise",
        ),
    ),
    Row(
        number="6.16",
        fact="Many requests pend at once, completed in any order, and none holds up those behind"
        " it, as the deferred one of WSAAccept does.",
        source="WSK_INSPECT_ID; WSAAccept, CF_DEFER",
        memory=("test_any_number_pends_and_completes_in_any_order",),
        real=(
            "test_pended_request_blocks_nobody_behind_it",
            "test_hundreds_pended_at_once_are_completed_in_any_order",
            "test_thousands_pended_at_once_end_each_as_it_must",
        ),
        before=(
            "test_any_number_pends_at_once_and_completes_in_any_order",
            "test_pended_request_blocks_nobody_behind_it",
        ),
        windows="that CF_DEFER holds up the queue",
    ),
    Row(
        number="7.1",
        fact="The SYN is not acknowledged before the verdict: connect() waits for it.",
        source="SO_CONDITIONAL_ACCEPT",
        memory=("test_syn_ack_is_withheld_until_the_verdict",),
        before=(
            "test_nothing_is_answered_before_the_verdict",
            "test_pended_client_is_answered_once_although_it_asks_again_and_again",
        ),
    ),
    Row(
        number="7.2",
        fact="A rejected SYN is answered with a reset, and connect() is refused; each further"
        " attempt is a new request, and inspected anew. After the handshake the peer is"
        " connected, and reset then.",
        source="SO_CONDITIONAL_ACCEPT; eMule, ListenSocket.cpp",
        memory=(
            "test_rejected_syn_is_refused",
            "test_rejected_connection_is_reset",
            "test_retry_after_a_rejection_is_a_new_request",
        ),
        real=(
            "test_rejected_peer_reads",
            "test_each_attempt_after_a_rejection_is_a_new_request",
        ),
        before=(
            "test_rejected_client_is_refused",
            "test_each_attempt_is_a_new_request",
            "test_silence_is_not_heard",
        ),
        windows="that connect() itself tries several times after a refusal",
    ),
    Row(
        number="7.3",
        fact="A SYN that comes again while its request pends is the same request: here it is"
        " absorbed, and there is one inspection.",
        source="WSK_INSPECT_ID, by what it promises; decided here",
        memory=(
            "test_repeated_syn_is_the_same_request",
            "test_every_connection_on_a_bad_network_is_inspected_once",
        ),
        before=(
            "test_pended_client_is_answered_once_although_it_asks_again_and_again",
            "test_silence_is_not_heard",
            "test_repeated_syn_gets_the_same_answer_again",
        ),
    ),
    Row(
        number="7.4",
        fact="Where there is no more room peers are refused, or reset after the handshake, or"
        " wait; programs can't rely on one of these.",
        source="listen, remarks; Winsock Connect and TCP SYN Attack Protection",
        memory=(
            "test_syns_beyond_max_pending_wait",
            "test_requests_beyond_max_pending_are_reset",
        ),
        real=(
            "test_newcomers_wait_in_the_backlog_while_too_many_are_pending",
            "test_newcomers_are_reset_while_too_many_are_pending",
        ),
        before=(
            "test_newcomers_wait_while_too_many_are_pending",
            "test_newcomers_are_refused_while_too_many_are_pending",
            "test_syns_beyond_the_backlog_come_again",
        ),
        windows="that a full backlog resets, where Linux drops the SYN",
    ),
    Row(
        number="7.5",
        fact="Who inspects each SYN has neither the system's protection from floods nor its"
        " backlog, so it needs limits of its own, and must be quick.",
        source="SO_CONDITIONAL_ACCEPT, remarks",
        memory=(
            "test_requests_beyond_max_pending_evict",
            "test_connections_beyond_max_parked",
        ),
        real=(
            "test_oldest_makes_room_while_too_many_are_pending",
            "test_evicted_inspectors_that_go_on_are_bounded_too",
            "test_flood_neither_starves_a_steady_client_nor_leaks",
        ),
        before=(
            "test_oldest_makes_room_while_too_many_are_pending",
            "test_nobody_is_asked_about_while_too_many_are_parked",
            "test_approved_connection_beyond_what_may_be_parked",
            "test_kernel_drops_syns_beyond_the_limit_before_anybody_is_asked",
        ),
        windows="that the option turns SYN attack protection off",
    ),
    Row(
        number="7.6",
        fact="Under SYN attack protection the handshake comes first, and then the condition is"
        " asked: the same as inspection after the handshake here, which says so.",
        source="WSAAccept, remarks",
        memory=("test_syn_ack_is_not_withheld_after_the_handshake",),
        real=(
            "test_point_in_force_can_be_asked_for",
            "test_point_that_cannot_be_had_is_refused_with_the_reason",
        ),
        before=("test_cookie_from_before_the_gate_gets_nobody_in_unasked",),
        windows="which of the two features turns the other off",
    ),
    Row(
        number="7.7",
        fact="A peer that gives up before the handshake sends nothing, and is missed by a timer"
        " alone. After the handshake its FIN or its reset tells.",
        source="RFC 9293, 3.8.1; decided here",
        memory=(
            "test_client_that_stops_asking_is_gone",
            "test_client_that_goes_on_asking_is_not_gone",
        ),
        real=("test_peer_that_leaves_is_noticed_at_once",),
        before=(
            "test_client_that_gives_up_is_missed_and_one_that_waits_is_not",
            "test_client_that_was_missed_wrongly_comes_back",
        ),
    ),
    Row(
        number="8.1",
        fact="For each request: inspected, then completed if it was pended, then exactly one of"
        " delivered and aborted; after a rejection neither.",
        source="PFN_WSK_INSPECT_EVENT, PFN_WSK_ABORT_EVENT",
        memory=("test_order_is_kept_in_every_state",),
        real=(
            "test_hundreds_pended_at_once_are_completed_in_any_order",
            "test_thousands_pended_at_once_end_each_as_it_must",
        ),
        before=(
            "test_any_number_pends_at_once_and_completes_in_any_order",
            "test_pended_request_is_kept_until_it_is_completed",
            "test_reset_while_there_is_no_verdict_is_an_abort",
        ),
    ),
    Row(
        number="8.2",
        fact="Between requests no order is promised: they are delivered as they are approved.",
        source="nobody; decided here",
        memory=("test_any_number_pends_and_completes_in_any_order",),
        real=("test_pended_request_blocks_nobody_behind_it",),
        before=(
            "test_any_number_pends_at_once_and_completes_in_any_order",
            "test_pended_request_blocks_nobody_behind_it",
        ),
    ),
    Row(
        number="8.3",
        fact="A request may be completed before its inspector has returned that it pends. Here"
        " the word is kept until it has, and void if it decides by itself.",
        source="nobody; decided here",
        memory=(
            "test_completed_early",
            "test_own_word_overrules_an_early_one",
        ),
        real=("test_completion_may_come_before_the_inspector_has_answered",),
        before=("test_completion_may_come_before_the_inspector_has_answered",),
    ),
    Row(
        number="8.4",
        fact="When closing has ended no callback runs, and none will; it can't fail.",
        source="PFN_WSK_CLOSE_SOCKET",
        memory=(
            "test_closing_aborts_what_pends",
            "test_straggling_inspector_holds_closing_for_a_second",
        ),
        real=(
            "test_closing_aborts_every_request_before_it_returns",
            "test_closing_is_bounded_although_an_inspector_goes_on",
        ),
        before=("test_closing_refuses_everybody_and_tells_every_abort",),
    ),
    Row(
        number="8.5",
        fact="Connections that were approved and that nobody has taken when the listening socket"
        " closes are reset; those that were delivered are not touched.",
        source="nobody; decided here. PFN_WSK_CLOSE_SOCKET for delivered ones",
        real=(
            "test_closing_aborts_every_request_before_it_returns",
            "test_closing_does_not_touch_what_was_delivered",
        ),
        before=("test_closing_resets_who_was_let_in_and_not_who_was_taken",),
    ),
    Row(
        number="8.6",
        fact="There are no time limits for accept, for the handshake or for a pended request but"
        " those that somebody sets. Here an approved connection has none.",
        source="PFN_WSK_ACCEPT, PFN_WSK_INSPECT_EVENT, by their silence",
        real=("test_approved_request_has_no_deadline",),
        before=("test_approved_request_has_no_deadline",),
    ),
)
"""Row by row."""

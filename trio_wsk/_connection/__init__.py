"""One accepted connection, and the block that it lives in.

`connection.Connection` is one object and not several, for there may be a hundred thousand. Its
class is made of layers, each of which knows those below it; from the bottom up:

* `wire`: the channel's octets, and its errors in our words.
* `turns`: the pump's turns, and the edges that ask for them.
* `ending`: FIN, resets, and the last that is said of a connection.
* `sending`: what is sent without waiting, from a `send_queue`.
* `events`: which events are enabled, and what is indicated.
* `stream`: the awaited calls.
* `next_request`: the wait between two requests.
* `known`: what is known of it.
* `connection`: what it is to its users.

What is noted of it stands in `state`. What other rooms may do with it, and its users may not, is in
`control`. `block` keeps account of the connections with events, and `between` of handlers that wait
for a next request; `farewell` lets channels linger after their end, `last_words` says a message to
peers that are turned away, `faults` tells whose doing an error was. `connecting` opens connections,
and `handshake` has one speak TLS.

Never here: how a connection was let in, and by which listening socket.
"""

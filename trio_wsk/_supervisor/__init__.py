"""A server of several processes: who opens the sockets, starts workers, and replaces them.

The supervisor serves nobody. It holds the listening sockets (`sockets`), so that a worker that ends
leaves its queue to the next one, and starts the workers, fresh interpreters that are given their
sockets and told what to serve (`process`). `generation` keeps a number of them running, by the
rules of `restarts`; `supervising` hears the signals: it ends all, or puts a new generation in the
place of an old one, or a new supervisor in its own place (`takeover`). `worker` is the other side:
what runs in those processes. The two talk by a `channel`, in the words of
`messages`: a supervisor asks (`asking`) and a worker answers (`answering`).

The supervisor itself is spoken to at its `doors`, where `steering` does what is asked of the whole
`crew`, and puts `together` what they answer, and `measuring` shows what they count.

Never here: where options come from, and how a connection is served.
"""

"""What a peer says first, read and written: TLS's ClientHello, and PROXY protocol headers.

Each parser is given the first octets of a connection, as many as have come, and answers what they
say, that it needs more of them, or that they are no such thing. `answers` has the words for that.

Never here: I/O, a task, a clock, policy. Who asks for the octets, how long that may take and what
follows is decided above.
"""

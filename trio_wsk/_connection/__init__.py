"""One accepted connection, and the block that it lives in.

`connection.Connection` is one object in three layers: the bytes (`wire`), the events (`events`),
the awaited calls (`connection`). `block` keeps account of the connections with events; `farewell`
lets channels linger after their end, `last_words` says a message to who is turned away, `faults`
tells whose doing an error was.

Never here: how a connection was let in, and by which listening socket.
"""

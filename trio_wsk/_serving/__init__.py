"""Servers: a task per connection, or callbacks, and the care around a listening socket.

`opening` has the functions that users call, `arguments` what they check, `server` the face that
users get; `core` is the object that works. It has the account of who is open (`connections`), and
whoever takes what the listening socket delivers: tasks of handlers (`handlers`), or callbacks; over
TLS those who shake hands first (`handshakes`). `draining` is the way to an orderly end, step by
step.

Never here: how a connection is accepted or inspected, and where its octets go.
"""

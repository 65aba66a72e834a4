"""Conditional accept: asking about requests, and carrying the answers out.

`table` decides what may follow what, and is pure; `driver` does what it says; `request` is what
inspectors see, and `two_stages` how an inspector says that it has two. Async inspectors run in
`inspector_tasks`, and who doesn't end is one of the `stragglers`.

Never here: who gets a connection, and when requests are taken.
"""

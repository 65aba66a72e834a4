"""
The servers that are measured, each file a program of its own.

``python -m tests.benchmarks.contenders.NAME MODE`` binds a free port of 127.0.0.1,
prints the port on a line of its own, and serves until it is killed. MODE says what
one connection is: ``echo1`` answers one read and closes, ``handshake`` closes without
reading, every other mode answers until end of file. What the client's reset raises is
no error here.
"""

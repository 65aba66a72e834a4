"""What all that waits is made of: who may call, Irps, readiness, deadlines, tasks used again.

For the rooms above: one task that calls back (`pump`), one way to complete an operation exactly
once, one way to be woken, one timer for many deadlines.

Never here: listening sockets, connections, requests.
"""

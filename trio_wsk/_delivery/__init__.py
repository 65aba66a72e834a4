"""Who gets an approved request: a queued accept, else the accept event, else it is parked.

`delivery` decides that, and is pure; `acceptors` are those who queue.

Never here: states of an inspection, servers.
"""

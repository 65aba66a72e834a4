"""Reading by the line, up to a delimiter, by the count: `reader.Reader`, over any stream.

`buffer` holds what was received and not yet taken, and `portions` are what can be taken from it;
both are pure. `reader` receives.

Never here: how a connection came to be, events, sending.
"""

"""When requests are taken from a transport, and how many; what is done when that fails.

Never here: where they go.
"""

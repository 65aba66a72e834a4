"""Servers: a listening socket, handlers, and the care around them.

Tasks of handlers, TLS, permits, draining; `opening` has the functions that users call.
"""

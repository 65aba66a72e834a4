"""The listening socket: the face that users see, and where its stages are tied together.

A request's way is in the rooms below: `_intake` takes it, `_inspection` asks about it, `_delivery`
finds who gets it, `_connection` is what they get.

Never here: servers.
"""

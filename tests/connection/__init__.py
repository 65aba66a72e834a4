"""Tests of connections: bytes, events and ends."""

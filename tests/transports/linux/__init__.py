"""Tests of inspecting before the handshake."""

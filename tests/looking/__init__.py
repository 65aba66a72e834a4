"""Tests of what is seen of a server lately."""

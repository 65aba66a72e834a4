"""Tests of what the documentation says, held to the code."""

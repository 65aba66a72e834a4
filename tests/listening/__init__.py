"""Tests of the listening socket as a whole."""

"""Tests of the pump and what it stands on."""

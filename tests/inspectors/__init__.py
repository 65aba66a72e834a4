"""Tests of rules: who is let in."""

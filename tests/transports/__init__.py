"""Tests of where requests come from."""

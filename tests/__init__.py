"""Tests of trio_wsk."""

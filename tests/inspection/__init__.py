"""Tests of conditional accept."""

"""Tests of supervisors and their workers."""

"""Tests of the page for operators."""

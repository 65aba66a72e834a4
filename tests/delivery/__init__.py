"""Tests of who gets an approved request."""

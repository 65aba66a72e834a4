"""Tests of when connections are taken, and what is done when they can not be."""

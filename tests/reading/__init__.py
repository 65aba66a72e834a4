"""Tests of reading by the line, up to a delimiter, by the count."""

"""Tests of what is shown to Prometheus, and of the pages that show it."""

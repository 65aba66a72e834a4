"""Tests of HTTP: streams, and what requests bring along."""

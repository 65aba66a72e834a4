"""Servers that keep thousands of connections waiting for a verdict, and their clients."""

"""Tests of the network in memory and the plugin for pytest."""

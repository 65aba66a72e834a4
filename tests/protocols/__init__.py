"""Tests of `trio_wsk._protocols`."""

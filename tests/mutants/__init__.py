"""Mutants of the package: small faults, made one at a time, each of which a test should notice.

`nox -s mutants` makes them (`python -m tests.mutants`). Whoever survives is named: what a test
claims of those lines nothing holds, or the fault is none, which `SAME` says with its reason.
"""

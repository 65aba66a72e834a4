"""
Benchmarks: every peer in the same run, ratios printed, no figure ever fails a test.

``python -m tests.benchmarks --help``, from the root of the repository. How a ratio
is made, and why only ratios mean anything on a shared machine, is said in `_report`;
how a round is measured, in `_measure`; who takes part, in `_contenders`.
"""

"""
Benchmarks: every peer in the same run, ratios printed, no figure ever fails a test.

``python -m tests.benchmarks --help``, from the root of the repository. What is measured, and
who takes part in it, is said in `_modes`; who they are, in `_contenders`; how rounds are made
of them, in `_measure`, and how one is measured once, in `_load`, `_idle` and `_pended`; how a
ratio is made, and why only ratios mean anything on a shared machine, in `_report`. What the
project wants to reach is in `_claims`; how a run is kept, in `_store`; and what the
documentation shows of it, in `_pages`.
"""

"""A plugin for pytest: it matters that a test fails, and not how simple its example is.

It gives Hypothesis the same examples each time, and lets it shrink and keep none.
"""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile(
    "mutants", database=None, derandomize=True, phases=[Phase.explicit, Phase.generate]
)
settings.load_profile("mutants")

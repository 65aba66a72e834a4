"""Makes pytest run the Python in the README and in the documentation, block by block.

The blocks of a page share one namespace, so a page reads as one program. A block that can't
run, because it serves for ever, say, has `<!--- skip: next -->` on the line before it; rather
than that, include a program from `examples/`, which has a test of its own.
"""

from __future__ import annotations

from sybil import Sybil
from sybil.parsers.myst import PythonCodeBlockParser, SkipParser

pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
).pytest()

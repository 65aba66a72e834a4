"""The examples, as modules and as programs."""

from __future__ import annotations

import importlib.util
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .places import EXAMPLES
from .programs import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from .programs import Program

AS_A_READER_DOES = """
import runpy, sys
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def example(name: str) -> ModuleType:
    """Import an example, which is a program and in no package."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def serving(name: str, *arguments: object) -> Iterator[tuple[Program, int]]:
    """Run an example that ends with `trio_wsk.run`; give it, and the port at which it listens."""
    path = str(EXAMPLES / f"{name}.py")
    with running(AS_A_READER_DOES, path, *map(str, arguments)) as program:
        said = program.next_error()
        found = re.match(r"listening on 127\.0\.0\.1:(\d+)", said)

        assert found, said

        yield program, int(found[1])

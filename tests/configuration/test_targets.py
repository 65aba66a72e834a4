"""What ``package.module:name`` stands for, and what is told if it leads nowhere."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trio_wsk._configuration.targets import TargetError, found, look_in_working_directory

MODULE = """
class Rules:
    @staticmethod
    def all(request): ...

def handler(connection): ...
"""


@pytest.fixture(autouse=True)
def _modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have modules in a working directory of its own, and forget them afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    (tmp_path / "targets_app.py").write_text(MODULE, "utf-8")
    (tmp_path / "targets_broken.py").write_text("import targets_nowhere\n", "utf-8")
    (tmp_path / "targets_raising.py").write_text("1 / 0\n", "utf-8")
    look_in_working_directory()


def test_name_is_found_in_the_working_directory() -> None:
    """A module beside the one who asks is found, and what has dots behind the colon."""
    assert "handler" == getattr(found("targets_app:handler"), "__name__", None)
    assert "all" == getattr(found("targets_app:Rules.all"), "__name__", None)


@pytest.mark.parametrize(
    ("target", "complaint"),
    [
        ("targets_ap:handler", "there is no module 'targets_ap'; modules are looked for in "),
        ("targets_app.views:handler", "there is no module 'targets_app.views'"),
        ("targets_app:handle", "targets_app has no 'handle'; did you mean 'handler'?"),
        ("targets_app:Rules.al", "targets_app:Rules has no 'al'; did you mean 'all'?"),
        ("targets_app:quite_another", r"targets_app has no 'quite_another'$"),
    ],
)
def test_target_that_leads_nowhere_is_told(target: str, complaint: str) -> None:
    """Which part leads nowhere is told, and what may have been meant."""
    with pytest.raises(TargetError, match=complaint.replace("?", r"\?")):
        found(target)


def test_error_of_a_module_is_the_modules() -> None:
    """What a module raises comes out as it is, also if that is another module that is missing."""
    with pytest.raises(ModuleNotFoundError, match="targets_nowhere"):
        found("targets_broken:handler")
    with pytest.raises(ZeroDivisionError):
        found("targets_raising:handler")


def test_working_directory_is_looked_at_once() -> None:
    """It stands in front, once."""
    look_in_working_directory()

    assert 1 == sys.path.count(str(Path.cwd()))
    assert sys.path[0] == str(Path.cwd())

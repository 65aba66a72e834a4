"""On what was measured, in words: the processor, the kernel, versions; no name, no path."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

import attrs

ABSENT: Final = "absent"

# "model name" is what x86 says, "Model" many an ARM board, "cpu" POWER; some say nothing.
PROCESSOR_KEYS: Final = ("model name", "Model", "cpu model", "cpu")

DECORATION: Final = re.compile(r"\((?:R|TM|C)\)|\bCPU\b|@\s*[\d.]+\s*GHz", re.IGNORECASE)


@attrs.frozen
class Machine:
    """What somebody needs to know who compares two runs."""

    processor: str
    """Its name, or that of its architecture."""
    cores: int
    """How many the machine has."""
    is_virtual: bool
    """As far as the processor says so."""
    kernel: str
    """Its name and version, without what a distribution adds to it."""
    versions: Mapping[str, str]
    """Of what took part, by name; `ABSENT` for what did not."""
    build: str
    """What to know about how this Python was compiled."""

    @classmethod
    def look(cls) -> Machine:
        """Describe this one."""
        text = _read("/proc/cpuinfo")
        return cls(
            processor=processor_name(text, platform.machine()),
            cores=os.cpu_count() or 1,
            is_virtual=re.search(r"^flags\s*:.*\bhypervisor\b", text, re.MULTILINE) is not None,
            kernel=kernel_name(platform.system(), platform.release()),
            versions=_versions(),
            build=_build(),
        )

    def __str__(self) -> str:
        """Describe it in a line."""
        where = " of a virtual machine" if self.is_virtual else ""
        plural = "" if self.cores == 1 else "s"
        return f"{self.processor}, {self.cores} core{plural}{where}, {self.kernel}"


def processor_name(cpuinfo: str, architecture: str) -> str:
    """Read the processor's name from ``/proc/cpuinfo``, which has a shape per architecture."""
    for key in PROCESSOR_KEYS:
        match = re.search(rf"^{key}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
        if match is not None:
            return " ".join(DECORATION.sub(" ", match[1]).split())
    return f"{architecture or 'unknown'} processor"


def kernel_name(system: str, release: str) -> str:
    """Keep the numbers of a release: what follows them may name a machine or its owner."""
    match = re.match(r"\d+(?:\.\d+)*", release)
    return f"{system} {match[0]}" if match is not None else system


def _build() -> str:
    if "--enable-optimizations" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        return "built with profile-guided optimisation"
    return "built without profile-guided optimisation"


def _versions() -> dict[str, str]:
    return {
        platform.python_implementation(): platform.python_version(),
        **{name: _version(name) for name in ("trio", "anyio", "uvloop")},
        "Node": _said_by("node", "--version").removeprefix("v"),
        "C compiler": _said_by("cc", "-dumpfullversion", "-dumpversion"),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ABSENT


def _said_by(program: str, *arguments: str) -> str:
    path = shutil.which(program)
    if path is None:
        return ABSENT
    result = subprocess.run(  # noqa: S603 - what will be measured
        [path, *arguments], check=False, capture_output=True, text=True, timeout=10
    )
    return result.stdout.strip() or "of unknown version"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""

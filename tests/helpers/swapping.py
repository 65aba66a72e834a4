"""An attacker who may write where a Unix socket is to be, and acts at the worst of moments.

Python says what it is about to do before it does it (audit hooks, PEP 578). So each step of
listening on a path and of closing it is attacked in turn: in the instant before it, whatever
stands there under a name that the attacker can change is swapped for something that leads to the
victim. The hook stays for as long as its process does, so that this is a program of its own.
"""

from __future__ import annotations

import json
import shutil
import stat
import sys
import tempfile
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from trio_wsk._engine.choice import task_readiness
from trio_wsk._vocabulary.errors import BindError
from trio_wsk.transports import PortableTransport

if TYPE_CHECKING:
    from collections.abc import Callable


class Scene:
    """A directory that others can write to, and one that they can't, with the victim."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "open" / "inner" / "app.sock"
        self.victims = folder / "victims"
        self.path.parent.mkdir(parents=True)
        self.victims.mkdir()
        for name in ("s", "app.sock"):
            (self.victims / name).write_text("precious", "utf-8")
            (self.victims / name).chmod(0o600)

    def _swap(self, put: Callable[[Path], object]) -> None:
        for entry in list(self.path.parent.glob(".wsk-*")):
            entry.rename(entry.with_name("taken" + entry.name))
            put(entry)

    def link_to_file(self) -> None:
        """Lead from the temporary name to the victim."""
        self._swap(lambda entry: entry.symlink_to(self.victims / "s"))

    def link_to_directory(self) -> None:
        """Lead from the temporary name to the directory that the victim is in."""
        self._swap(lambda entry: entry.symlink_to(self.victims))

    def own_directory(self) -> None:
        """Put a directory in its place, with a link to the victim."""

        def put(entry: Path) -> None:
            entry.mkdir()
            entry.chmod(0o777)
            (entry / "s").symlink_to(self.victims / "s")

        self._swap(put)

    def inner_directory(self) -> None:
        """Lead from the directory of the path to that of the victim, who has that name there."""
        inner = self.path.parent
        if not inner.is_symlink():
            inner.rename(inner.with_name("taken"))
            inner.symlink_to(self.victims)

    def state(self) -> list[str]:
        """Say what has become of the victims."""
        return sorted(
            f"{each.name} {stat.S_IMODE(each.lstat().st_mode):o}"
            for each in self.victims.iterdir()
            if not each.is_socket()  # made there, which harms nobody
        )


class Attacker:
    """Who swaps before one of the steps."""

    def __init__(self) -> None:
        self.attack: Callable[[], None] | None = None
        self.steps: list[str] = []
        """What was seen to be done; the attack comes before the last."""
        self._at = 0
        sys.addaudithook(self._hook)

    def arm(self, attack: Callable[[], None], at: int) -> None:
        """Have the attack done before that step from now."""
        self.attack, self._at, self.steps = attack, at, []

    def _hook(self, event: str, _: object) -> None:
        attack = self.attack
        if attack is not None and event.startswith(("os.", "socket.", "open")):
            self.steps.append(event)
            if len(self.steps) > self._at:
                self.attack = None
                attack()


async def listen_and_close(path: Path) -> None:
    """Do what is attacked."""
    transport = PortableTransport.unix(path, mode=0o666)
    try:
        await transport.bind()
        transport.listen(task_readiness())
    except BindError:
        pass  # it was noticed
    transport.close()


def main(kind: str) -> None:
    """Attack each step in this way; print what was attacked, and which victims have changed."""
    attacker = Attacker()
    attacked = set()
    harm = []
    for at in count():
        folder = Path(tempfile.mkdtemp())
        scene = Scene(folder)
        before = scene.state()
        attacker.arm(getattr(scene, kind), at)
        trio.run(listen_and_close, scene.path)
        is_over = attacker.attack is not None
        attacker.attack = None
        if not is_over:
            attacked.add(attacker.steps[-1])
            if before != scene.state():
                harm.append(f"before step {at}, {attacker.steps[-1]}: {scene.state()}")
        shutil.rmtree(folder)
        if is_over:
            break
    json.dump({"attacked": sorted(attacked), "harm": harm}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])

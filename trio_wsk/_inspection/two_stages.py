"""An inspector in two stages: asked before the handshake, and again when it is over.

Some of what an inspector looks at is known with the SYN, and some comes with the first octets. One
that has both can be asked about each at its earliest point: it says so by an attribute ``stages``.
The request is the same in both, with its facts and its deadline; each stage is asked once.

Source: PFN_WSK_INSPECT_EVENT has one stage only, since WSK shows no octets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from .request import ConnectionRequest

__all__ = ["TwoStages", "stages_of"]


@attrs.frozen
class TwoStages:
    """The stages of an inspector. Asked after the handshake at once, the inspector itself is."""

    before_handshake: Callable[[ConnectionRequest], object]
    """Answers None where the other one is to be asked; what else it answers is the verdict."""
    after_handshake: Callable[[ConnectionRequest], object]
    """Asked when the handshake is over, and answers as any inspector does."""


def stages_of(inspect: object) -> TwoStages | None:
    """Return the stages of an inspector; None if it has one only."""
    stages = getattr(inspect, "stages", None)
    return stages if isinstance(stages, TwoStages) else None

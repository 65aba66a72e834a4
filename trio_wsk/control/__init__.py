"""A Unix socket by which an operator looks into a running server, and steers it.

`Control` knows what can be steered, `serve_control` listens for who may, and `ask_control` asks.
The protocol is lines of JSON, so that any language and a shell can speak it.

Lives above the servers and the rules, and knows them as users do. Nothing in them knows it.
"""

from __future__ import annotations

from ._asking import ControlError, ask_control
from ._control import Control
from ._serving import serve_control

__all__ = ["Control", "ControlError", "ask_control", "serve_control"]

# So that tracebacks and documentation name the place to import them from.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name

"""A page on which an operator sees what a server does, live, and steers it.

It needs h11, which ``pip install 'trio-wsk[admin]'`` brings.

`serve_admin` serves it over HTTP: ``_page`` is what a browser gets, ``_watching`` has the numbers
that it is sent, and ``_guarding`` says who may see them, and who may change something. A `Control`
does what is asked for.

Lives above the control of servers, and knows it as users do. Nothing in it knows this.
"""

from __future__ import annotations

try:
    import h11 as _h11  # noqa: F401 - what is below needs it
except ImportError as _missing:
    raise ImportError(
        "trio_wsk.admin needs h11, which is not installed: pip install 'trio-wsk[admin]'"
    ) from _missing

from ._serving import serve_admin

__all__ = ["serve_admin"]

# So that tracebacks and documentation name the place to import them from.
for _name in __all__:
    globals()[_name].__module__ = __name__
del _name

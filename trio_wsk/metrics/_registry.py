"""Whether something is a registry: prometheus_client takes anything until it is collected."""

from __future__ import annotations

from trio_wsk._vocabulary.errors import InvalidParameterError

__all__ = ["check_registry"]


def check_registry(registry: object) -> None:
    """Refuse what can't be collected.

    Raises:
      InvalidParameterError: it is no registry. (The caller's.)
    """
    if not callable(getattr(registry, "collect", None)):
        raise InvalidParameterError(
            f"registry is a CollectorRegistry of prometheus_client's, not {registry!r}"
        )

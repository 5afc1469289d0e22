"""Keeping what reports a run from stopping it."""

from __future__ import annotations

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)


class Forgiving:
    """Calls something that may fail. Its first failure is a warning, and it is not called again.

    Args:
        name: What fails, for the warning.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self.failed = False

    def __call__(self, action: Callable[[], object]) -> None:
        """Do it, unless it has failed before."""
        if self.failed:
            return
        try:
            action()
        except Exception as error:  # trackers raise whatever their libraries and the network raise
            self.failed = True
            reason = (str(error).splitlines() or [""])[0]
            logger.warning(
                "%s failed (%s: %s)\n    -> the run goes on without it", self._name, type(error).__name__, reason
            )

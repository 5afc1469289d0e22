"""Trackers that are services, by the value of `report_to`, which is accelerate's name too."""

from __future__ import annotations

from tuner.tracking.hosted import HOSTED
from tuner.tracking.local import LOCAL
from tuner.tracking.service import Service

SERVICES: dict[str, Service] = HOSTED | LOCAL
"""TensorBoard, which has a writer of its own, is not among them."""

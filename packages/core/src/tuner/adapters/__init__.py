"""What trains: adapters of several kinds, or all weights, behind one interface."""

from tuner.adapters.applied import Applied
from tuner.adapters.base import Trainable
from tuner.adapters.create import create_trainable
from tuner.adapters.initial import check_initial_adapter
from tuner.adapters.reopen import apply_saved, load_exported

__all__ = ["Applied", "Trainable", "apply_saved", "check_initial_adapter", "create_trainable", "load_exported"]

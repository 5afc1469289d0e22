"""Garbage is looked for among what a run makes alone."""

import gc
import weakref

from tuner.data.build import _garbage_kept
from tuner.training.session import quick_collections


class Ring:
    """Something that only the collector can free."""

    def __init__(self):
        self.itself = self


def test_what_was_there_is_left_out_and_what_is_made_is_not():
    old, kept = Ring(), []
    gone_old = weakref.ref(old)
    with quick_collections():
        assert gc.get_freeze_count() > 0
        with _garbage_kept():  # as planning does inside a run
            kept.append(Ring())
        assert gc.get_freeze_count() > 0
        new = Ring()
        gone_new = weakref.ref(new)
        del old, new
        gc.collect()
        assert gone_new() is None
        assert gone_old() is not None
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert gone_old() is None

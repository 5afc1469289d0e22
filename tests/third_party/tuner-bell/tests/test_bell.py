from __future__ import annotations

import pytest

from tuner.config import RunConfig
from tuner.config.optimisation import OptimisationConfig
from tuner.config.tracking import TrackingConfig
from tuner.events import RunEnded
from tuner.plugins import create_extensions
from tuner_bell import Bell


@pytest.mark.parametrize(("steps", "rings"), [(99, 0), (100, 1)])
def test_installed_it_takes_part_in_long_runs_alone(steps, rings, capsys):
    config = RunConfig.model_construct(
        optimisation=OptimisationConfig(optimizer="optimi-adamw", max_train_steps=steps), tracking=TrackingConfig()
    )
    bells = [extension for extension in create_extensions(config) if isinstance(extension, Bell)]
    assert len(bells) == rings
    for bell in bells:
        bell.run_ended(RunEnded(step=steps, outcome="done", exported=None))
    assert capsys.readouterr().out == "\arun done at step 100\n" * rings

"""The settings of gradient checkpointing act on a run."""

from collections import Counter

import pytest
import torch

from tuner.config.loading import load_config
from tuner.errors import ConfigError
from tuner.training.interruption import StopRequest
from tuner.training.run import prepare_run, train
from tuner.training.step import Learning, backward_step


@pytest.mark.parametrize(
    ("settings", "calls"),
    [
        ({"gradient_checkpointing": False}, [1, 1]),
        ({}, [2, 2]),
        ({"gradient_checkpointing_interval": 1}, [2, 2]),
        ({"gradient_checkpointing_interval": 2}, [2, 1]),
    ],
)
def test_the_settings_say_which_blocks_compute_twice(project, settings, calls):
    run = prepare_run(load_config(project(dataset={"crop": True}, **settings)), StopRequest())
    learner = run.learner
    counted = Counter()
    blocks = learner.components.denoiser.transformer_blocks
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda _, inputs, number=number: counted.update([number]))
    learning = Learning(run.session.hook, learner.components, learner.trainable, torch.device("cpu"), torch.float32)
    backward_step(learning, run.source.step(0), torch.Tensor.backward)
    assert [counted[number] for number in range(len(blocks))] == calls


def test_the_interval_changes_nothing_that_is_learnt(project, weights):
    exports = [
        train(
            load_config(project(output_dir=f"every{n}", max_train_steps=2, gradient_checkpointing_interval=n))
        ).exported
        for n in (1, 2)
    ]
    assert weights(exports[0]) == weights(exports[1])


@pytest.mark.parametrize("interval", [0, -2])
def test_an_interval_below_one_is_refused(project, interval):
    with pytest.raises(ConfigError, match=r"(?s)gradient_checkpointing_interval.*greater than or equal to 1"):
        load_config(project(gradient_checkpointing_interval=interval))

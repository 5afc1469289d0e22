"""Settings of several processes: what they ask of the launcher, what it says back, and what they exclude."""

from __future__ import annotations

import json

import pytest

from tuner.cli.launching import launcher_arguments, needs_launch, show_devices
from tuner.config.loading import load_config
from tuner.errors import ConfigError, TunerError
from tuner.training.processes import Processes, join_processes


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def launch(write_config):
    return lambda **settings: load_config(write_config(**settings)).config.launch


@pytest.fixture
def problems(write_config):
    def collect(**settings):
        with pytest.raises(ConfigError) as caught:
            load_config(write_config(**settings))
        return {problem.key: str(problem) for problem in caught.value.problems}

    return collect


@pytest.fixture
def asked(launch):
    """What the launcher is asked for, parsed by itself."""
    from accelerate.commands.launch import launch_command_parser

    return lambda **settings: launch_command_parser().parse_args([*launcher_arguments(launch(**settings)), "script"])


@pytest.fixture
def file(project):
    """Write a configuration of accelerate's and return its name."""

    def write(**values):
        (project / "accelerate.yaml").write_text("".join(f"{key}: {value}\n" for key, value in values.items()))
        return "accelerate.yaml"

    return write


def test_settings_reach_the_launcher(asked):
    arguments = asked(num_processes=3, accelerate_visible_devices="0, 2,3")
    assert (arguments.num_processes, arguments.num_machines, arguments.multi_gpu) == (3, 1, True)
    assert (arguments.gpu_ids, arguments.main_process_port) == ("0,2,3", 0)
    assert (arguments.mixed_precision, arguments.dynamo_backend) == ("no", "no")


def test_a_file_of_accelerates_gives_what_the_configuration_does_not(asked, file):
    name = file(num_processes=4, num_machines=2, machine_rank=1, main_process_ip="10.0.0.1", main_process_port=29501)
    arguments = asked(accelerate_config=name)
    assert (arguments.num_processes, arguments.num_machines, arguments.config_file) == (4, 2, name)
    assert arguments.main_process_port is None
    assert asked(accelerate_config=name, num_processes=8).num_processes == 8


def test_threads_are_shared_out_unless_somebody_says_how_many(asked, monkeypatch):
    assert asked(num_processes=1000).num_cpu_threads_per_process == 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert asked(num_processes=1000).num_cpu_threads_per_process is None


def test_only_what_is_not_launched_yet_is_launched(launch, monkeypatch):
    assert not needs_launch(launch())
    assert needs_launch(launch(num_processes=2))
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert not needs_launch(launch(num_processes=2))


def test_the_launcher_has_the_last_word(write_config, monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    loaded = load_config(write_config(num_processes=2))
    assert loaded.config.launch.num_processes == 3
    assert loaded.given["num_processes"].origin == "the launcher"
    assert "num_processes is 2, but 3 were launched: these train" in loaded.warnings


@pytest.mark.parametrize("devices", ["1,3", [1, 3], " 1 , 3 "])
def test_devices_are_shown_to_this_process_and_those_it_starts(launch, devices, monkeypatch):
    import os

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    show_devices(launch())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    show_devices(launch(accelerate_visible_devices=devices))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"


@pytest.mark.parametrize("devices", ["0,0", "0,,1", [], [1, 1]])
def test_devices_that_name_none_are_refused(problems, devices):
    assert "give each number once" in problems(accelerate_visible_devices=devices)["accelerate_visible_devices"]


def test_what_does_not_go_together_is_refused_all_at_once(problems, project):
    entry = {
        "id": "pictures", "instance_data_dir": "pictures", "crop": True, "crop_style": "random",
        "vae_cache_clear_each_epoch": True,
    }  # fmt: skip
    (project / "multidatabackend.json").write_text(json.dumps([entry]))
    found = problems(
        num_processes=3, num_machines=2, accelerate_visible_devices="", optimizer_release_gradients=True,
        grad_clip_method="value",
    )  # fmt: skip
    assert "3 processes cannot be shared out evenly among 2 machines" in found["num_processes"]
    assert "machine_rank, main_process_ip and main_process_port" in found["num_machines"]
    assert "over 3 processes" in found["optimizer_release_gradients"]
    assert "num_processes 1" in found["pictures: vae_cache_clear_each_epoch"]


def test_fewer_devices_than_processes_are_refused(problems):
    found = problems(num_processes=3, accelerate_visible_devices=[0, 1])
    assert "0,1 are fewer devices than the 3 processes" in found["accelerate_visible_devices"]


def test_a_file_that_splits_the_model_is_refused(problems, file):
    found = problems(accelerate_config=file(distributed_type="MEGATRON_LM"))
    assert "'MEGATRON_LM' is not served" in found["distributed_type"]


def test_a_file_that_is_not_there_is_refused(problems):
    assert "no such file" in problems(accelerate_config="nowhere.yaml")["accelerate_config"]


def test_a_file_for_one_process_has_no_effect_and_says_so(write_config, file):
    loaded = load_config(write_config(accelerate_config=file(num_processes=1)))
    assert loaded.unread["accelerate_config"] == "num_processes is 1, so nothing is launched"
    assert "accelerate_config" not in load_config(write_config(accelerate_config=file(num_processes=2))).unread


def test_a_process_that_nobody_launched_beside_others_is_alone(monkeypatch):
    assert join_processes.__wrapped__() == Processes()
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert join_processes.__wrapped__() == Processes()


def test_a_launch_that_splits_the_model_is_refused(monkeypatch):
    variables = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "ACCELERATE_USE_DEEPSPEED": "true"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(TunerError, match="ACCELERATE_USE_DEEPSPEED asks to split the model"):
        join_processes.__wrapped__()

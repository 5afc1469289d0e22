"""Group offload on a network of a few blocks: what waits where, and that gradients stay what they are."""

import copy
import gc
import logging
import math
import resource
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tuner.config.loading import load_config
from tuner.errors import ConfigError, TunerError
from tuner.training.offloading import HOST, GroupOffload, check_offload, group_offload, uses_stream

CUDA = torch.device("cuda")


class Block(nn.Module):
    """Weights that a backward pass reads in several ways: as matrices, elementwise and as a convolution's kernel."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.linear = nn.Linear(8, 8)
        self.conv = nn.Conv1d(8, 8, 1)
        self.scale = nn.Parameter(torch.randn(8))
        self.adapter = nn.Linear(8, 8, bias=False)

    def forward(self, x):
        x = x + self.scale * self.linear(self.norm(x)).tanh() + self.adapter(x)
        return x + self.conv(x.transpose(1, 2)).transpose(1, 2)


class Network(nn.Module):
    def __init__(self, blocks=5):
        super().__init__()
        self.embed = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(blocks))
        self.register_buffer("shift", torch.randn(8))
        self.recompute = False

    def forward(self, x):
        x = self.embed(x) + self.shift
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.recompute else block(x)
        return x


def frozen_network():
    torch.manual_seed(0)
    network = Network().requires_grad_(False)
    for block in network.blocks:
        block.adapter.requires_grad_(True)
    return network


@pytest.fixture
def network():
    return frozen_network()


def gradients(network):
    network.zero_grad(set_to_none=True)
    network(torch.linspace(-1, 1, 24).view(2, 3, 4)).square().mean().backward()
    return [parameter.grad for parameter in network.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("blocks", [1, 2, 3, 5, 7])
def test_there_are_as_many_groups_as_it_takes(network, blocks):
    offloader = GroupOffload("block_level", blocks).apply(network, HOST)
    assert len(offloader.groups) == math.ceil(5 / blocks)
    assert [module for group in offloader.groups for module in group.modules] == list(network.blocks)


def test_leaf_level_moves_each_frozen_layer_by_itself(network):
    offloader = GroupOffload("leaf_level").apply(network, HOST)
    assert [len(group) for group in offloader.groups] == [2, 2, 2] * 5  # weights and biases of norm, linear and conv


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("disk", [False, True])
@pytest.mark.parametrize(("kind", "blocks"), [("block_level", 1), ("block_level", 2), ("leaf_level", 1)])
def test_gradients_are_those_of_the_network_as_it_is(network, tmp_path, kind, blocks, disk, recompute):
    network.recompute = recompute
    expected = gradients(copy.deepcopy(network))
    GroupOffload(kind, blocks, folder=tmp_path if disk else None).apply(network, HOST)
    for _ in range(2):
        for ours, theirs in zip(gradients(network), expected, strict=True):
            assert torch.equal(ours, theirs)


def test_what_waits_on_the_disk_is_not_in_memory(network, tmp_path):
    GroupOffload("block_level", folder=tmp_path).apply(network, HOST)
    places = {name: parameter.device.type for name, parameter in network.named_parameters()}
    frozen = {name for name in places if name.startswith("blocks.") and "adapter" not in name}
    assert {name for name, place in places.items() if place == "meta"} == frozen
    assert len(list(tmp_path.glob("offload-*/*.safetensors"))) == 5


def test_the_disk_is_left_as_it_was(tmp_path):
    network = frozen_network()
    GroupOffload("block_level", folder=tmp_path).apply(network, HOST)
    assert list(tmp_path.iterdir())
    del network
    gc.collect()
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_is_named(network, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(TunerError, match=r"group_offload_to_disk_path: .* cannot hold the denoiser"):
            GroupOffload("block_level", folder=tmp_path).apply(network, HOST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(("recompute", "kept"), [(True, 1), (False, 5)])
def test_recomputed_blocks_leave_the_device_one_by_one(network, tmp_path, recompute, kept):
    """Counts the lent weights that are alive when the last block is done, which is what the device must hold."""
    network.recompute = recompute
    GroupOffload("block_level", folder=tmp_path).apply(network, HOST)
    lent = []
    for block in network.blocks:
        block.register_forward_hook(lambda block, *_: lent.append(weakref.ref(block.conv.weight.untyped_storage())))
    output = network(torch.linspace(-1, 1, 24).view(2, 3, 4))
    gc.collect()
    assert sum(each() is not None for each in lent) == kept
    output.square().mean().backward()


def loaded(write_config, **settings):
    return load_config(write_config(enable_group_offload=True, **settings))


def test_a_cpu_has_nowhere_to_move_blocks(write_config, caplog):
    config = loaded(write_config, group_offload_use_stream=True).config
    caplog.set_level(logging.INFO, logger="tuner")
    check_offload(config, HOST)
    assert group_offload(config, HOST) is None
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "INFO"]
    assert "no effect on a CPU" in caplog.text
    assert "group_offload_use_stream is off: there is no CUDA device" in caplog.text


@pytest.mark.parametrize(("recompute", "stream"), [(True, False), (False, True)])
def test_copies_overlap_unless_blocks_are_recomputed(write_config, caplog, recompute, stream):
    config = loaded(write_config, group_offload_use_stream=True, gradient_checkpointing=recompute).config
    assert uses_stream(config, CUDA) is stream
    assert group_offload(config, CUDA) == GroupOffload("block_level", 1, stream, None)
    caplog.set_level(logging.INFO, logger="tuner")
    check_offload(config, CUDA)
    assert ("recomputes blocks in another order" in caplog.text) is not stream


def test_settings_arrive(write_config, tmp_path):
    settings = {"group_offload_type": "leaf_level", "group_offload_blocks_per_group": 3}
    config = loaded(write_config, **settings, group_offload_to_disk_path=str(tmp_path / "spill")).config
    assert group_offload(config, CUDA) == GroupOffload("leaf_level", 3, False, tmp_path / "spill")
    check_offload(config, CUDA)
    assert (tmp_path / "spill").is_dir()
    assert not list((tmp_path / "spill").iterdir())


def test_a_folder_that_cannot_be_written_is_refused(write_config, tmp_path):
    (tmp_path / "file").write_text("")
    config = loaded(write_config, group_offload_to_disk_path=str(tmp_path / "file" / "spill")).config
    with pytest.raises(TunerError, match=r"group_offload_to_disk_path: .*spill cannot be written"):
        check_offload(config, CUDA)


def test_a_full_tune_has_nothing_to_offload(write_config):
    with pytest.raises(ConfigError, match="model_type full trains them all"):
        loaded(write_config, model_type="full")


def test_offloading_without_checkpointing_is_warned_of(write_config):
    assert not any("enable_group_offload" in line for line in loaded(write_config).warnings)
    warned = loaded(write_config, gradient_checkpointing=False).warnings
    assert any("spares memory only while pictures are made" in line for line in warned)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("kind", "blocks", "stream"), [("block_level", 2, False), ("block_level", 1, True), ("leaf_level", 1, True)]
)
def test_gradients_on_a_device_are_the_same_too(network, kind, blocks, stream):
    """Blocks wait in pinned memory and come without being waited for, ahead of time on a stream of their own."""
    network.recompute = not stream
    x = torch.linspace(-1, 1, 24, device=CUDA).view(2, 3, 4)

    def run(other):
        other.zero_grad(set_to_none=True)
        other(x).square().mean().backward()
        return [parameter.grad for parameter in other.parameters() if parameter.requires_grad]

    expected = run(copy.deepcopy(network).to(CUDA))
    GroupOffload(kind, blocks, stream).apply(network, CUDA)
    assert network.blocks[0].linear.weight.is_pinned()
    for _ in range(3):
        for ours, theirs in zip(run(network), expected, strict=True):
            assert torch.equal(ours, theirs)

"""init_lora: a fresh run starts from a saved adapter, exactly, or says why it cannot."""

from __future__ import annotations

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from tuner.adapters import check_initial_adapter, create_trainable
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.errors import ConfigError
from tuner.testing.minimal import minimal_facts

FACTS = minimal_facts(adapter_targets=("to_q", "to_k"))
LOKR = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 4}
X = torch.linspace(-2, 2, 48).view(3, 16)


class Attention(nn.ModuleDict):
    def __init__(self):
        super().__init__({name: nn.Linear(16, 16) for name in ("to_q", "to_k")})


class Net(nn.Module):
    def __init__(self, blocks=2):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Attention() for _ in range(blocks))

    def forward(self, x):
        for block in self.blocks:
            x = x + torch.tanh(block["to_q"](x) * block["to_k"](x))
        return x


def lokr(**settings):
    return LycorisConfig(**{**LOKR, **settings})


def make(net, adapter, lycoris=None, dtype=torch.float32, seed=7, fresh=True):
    return create_trainable(
        model_type="lora",
        adapter=adapter,
        lycoris=lycoris,
        facts=FACTS,
        denoiser=net,
        dtype=dtype,
        seed=seed,
        fresh=fresh,
    )


def settings(lycoris, init=None, **values):
    kind = {"lora_rank": 4, "lora_dropout": 0.0} if lycoris is None else {"lora_type": "lycoris"}
    return AdapterConfig(**{**kind, "init_lora": init, **values})


def trained(folder, lycoris=None, dtype=torch.float32, blocks=2, **values):
    """Make an adapter whose every value is far from its first, save it, and return its output and file."""
    net = Net(blocks).to(dtype)
    trainable = make(net, settings(lycoris, **values), lycoris, dtype)
    numbers = torch.Generator().manual_seed(11)
    for _, parameter in trainable.named_parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=numbers))
    with torch.no_grad():
        return net(X.to(dtype)), trainable.export(folder, {})


def output(net, dtype=torch.float32):
    with torch.no_grad():
        return net(X.to(dtype))


def error(found, expected):
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def refusal(path, lycoris=None, blocks=2, **values):
    with pytest.raises(ConfigError) as raised:
        make(Net(blocks), settings(lycoris, path, **values), lycoris)
    assert {problem.key for problem in raised.value.problems} == {"init_lora"}
    assert all(problem.remedy and str(path) in problem.message for problem in raised.value.problems)
    return str(raised.value)


KINDS = {
    "standard": None,
    "lokr": lokr(),
    "lokr, rebuilt": lokr(bypass_mode=False, multiplier=0.5),
    "low rank": lokr(linear_dim=1, linear_alpha=0.5, factor=2),
    "low rank, both": lokr(linear_dim=1, decompose_both=True),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lycoris", KINDS.values(), ids=KINDS)
def test_a_run_starts_with_the_output_of_the_adapter(lycoris, dtype, tmp_path):
    expected, file = trained(tmp_path, lycoris, dtype)
    base = Net().to(dtype)
    assert error(output(base, dtype), expected) > 1e-2
    for path in (file, tmp_path):
        net = Net().to(dtype)
        trainable = make(net, settings(lycoris, path), lycoris, dtype, seed=8)
        assert torch.equal(output(net, dtype), expected)
        assert all(parameter.requires_grad for _, parameter in trainable.named_parameters())
        again = trainable.export(tmp_path / f"again-{path.is_dir()}", {})
        given, back = load_file(file), load_file(again)
        assert given.keys() == back.keys()
        assert all(torch.equal(back[name], tensor) for name, tensor in given.items())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(("before", "after"), [(True, True), (True, False), (False, True)])
def test_a_scalar_in_the_file_is_part_of_the_first_matrix(before, after, dtype, tolerance, tmp_path):
    expected, file = trained(tmp_path, lokr(use_scalar=before), dtype)
    net = Net().to(dtype)
    lycoris = lokr(use_scalar=after)
    trainable = make(net, settings(lycoris, file), lycoris, dtype)
    assert error(output(net, dtype), expected) <= tolerance
    scalars = [value for name, value in trainable.named_parameters() if name.endswith("scalar")]
    assert len(scalars) == (4 if after else 0)
    assert all(value == 1 for value in scalars)


def test_an_alpha_of_unfactorised_matrices_says_nothing(tmp_path):
    expected, file = trained(tmp_path, lokr())
    lycoris = lokr(linear_dim=20000, linear_alpha=3)
    net = Net()
    make(net, settings(lycoris, file), lycoris)
    assert torch.equal(output(net), expected)


def test_a_lora_that_peft_made_is_started_from(tmp_path):
    """The file's layout is PEFT's own with the part's name before it, and needs none of our metadata."""
    theirs = Net()
    inject_adapter_in_model(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k"]), theirs)
    for name, value in theirs.named_parameters():
        if "lora_" in name:
            value.data = torch.linspace(-0.5, 0.3, value.numel()).view(value.shape)
    file = tmp_path / "theirs.safetensors"
    save_file({f"transformer.{name}": value for name, value in get_peft_model_state_dict(theirs).items()}, file)
    net = Net()
    make(net, settings(None, file))
    assert torch.equal(output(net), output(theirs))
    assert error(output(net), output(Net())) > 1e-2


def test_a_resumed_run_does_not_look_at_the_file(tmp_path):
    first = make(Net(), settings(None)).state()
    resumed = make(Net(), settings(None, tmp_path / "gone.safetensors"), fresh=False).state()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in first.items())


def test_the_files_weights_are_not_overwritten_by_noise(tmp_path):
    expected, file = trained(tmp_path, lokr())
    net = Net()
    make(net, settings(lokr(), file, init_lokr_norm=1e-2), lokr())
    assert torch.equal(output(net), expected)


def test_files_that_cannot_be_read_are_refused_before_the_model_is_there(tmp_path):
    _, file = trained(tmp_path / "whole")
    cut, text, odd = (tmp_path / f"{name}.safetensors" for name in ("cut", "text", "odd"))
    cut.write_bytes(file.read_bytes()[:-10])
    text.write_text("no weights")
    save_file({"a": torch.zeros(2)}, odd, {"lycoris_config": "{"})
    (tmp_path / "empty").mkdir()
    pickled = tmp_path / "adapter.bin"
    torch.save({"a": torch.zeros(2)}, pickled)
    for path in (cut, text, pickled, tmp_path / "empty", tmp_path / "absent.safetensors"):
        adapter = settings(None, path)
        with pytest.raises(ConfigError, match="cannot be read as a safetensors file") as raised:
            check_initial_adapter(adapter, None)
        assert raised.value.problems[0].key == "init_lora"
        assert str(path) in str(raised.value)
        assert "cannot be read as a safetensors file" in refusal(path)
    with pytest.raises(ConfigError, match="'lycoris_config' in its metadata is no JSON"):
        check_initial_adapter(settings(lokr(), odd), lokr())


def test_nothing_to_start_from_is_nothing_to_check():
    check_initial_adapter(settings(None), None)
    check_initial_adapter(settings(lokr()), lokr())


def test_other_kinds_of_files_are_refused_early(tmp_path):
    lora, kron = trained(tmp_path / "lora")[1], trained(tmp_path / "lokr", lokr())[1]
    weights = tmp_path / "model.safetensors"
    save_file(Net().state_dict(), weights)
    check_initial_adapter(settings(None, lora), None)
    check_initial_adapter(settings(lokr(), kron), lokr())
    for path, lycoris, message in (
        (lora, lokr(), r"is a standard LoRA.*\n.*set lora_type to standard"),
        (kron, None, r"is a LyCORIS adapter.*\n.*set lora_type to lycoris"),
        (weights, None, "holds no adapter.*blocks.0.to_k.bias"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_initial_adapter(settings(lycoris, path), lycoris)


def test_another_rank_or_alpha_is_refused_early_with_the_right_one(tmp_path):
    _, file = trained(tmp_path, lora_rank=8, lora_alpha=2)
    for rank, alpha, remedy in ((4, 2, "set lora_rank to 8"), (8, None, "set lora_alpha to 2")):
        adapter = settings(None, file, lora_rank=rank, lora_alpha=alpha)
        with pytest.raises(ConfigError, match=remedy) as raised:
            check_initial_adapter(adapter, None)
        assert len(raised.value.problems) == 1
    check_initial_adapter(settings(None, file, lora_rank=8, lora_alpha=2), None)


def test_a_file_without_metadata_has_the_rank_as_alpha(tmp_path):
    file, bare = trained(tmp_path)[1], tmp_path / "bare.safetensors"
    save_file(load_file(file), bare)
    check_initial_adapter(settings(None, bare), None)
    check_initial_adapter(settings(None, bare, lora_alpha=4), None)
    assert "set lora_alpha to 4" in refusal(bare, lora_alpha=2)
    assert "set lora_rank to 4" in refusal(bare, lora_rank=2)


def test_what_this_program_does_not_train_is_refused(tmp_path):
    _, file = trained(tmp_path)
    with safe_open(file, "pt") as opened:
        record = json.loads(opened.metadata()["lora_adapter_metadata"])
    tensors = load_file(file)
    patterned, mixed = tmp_path / "patterned.safetensors", tmp_path / "mixed.safetensors"
    record["transformer.alpha_pattern"] = {"blocks.0.to_q": 1}
    save_file(tensors, patterned, {"lora_adapter_metadata": json.dumps(record)})
    assert "alpha_pattern" in refusal(patterned)
    name = "transformer.blocks.0.to_q.lora_A.weight"
    save_file(tensors | {name: torch.zeros(2, 16)}, mixed)
    assert "ranks 2, 4" in refusal(mixed)


def test_a_multiplier_that_differs_is_refused_early(tmp_path):
    _, file = trained(tmp_path, lokr(multiplier=0.5))
    with pytest.raises(ConfigError, match=r"set multiplier to 0\.5"):
        check_initial_adapter(settings(lokr(), file), lokr())


def test_layers_that_differ_are_counted_and_the_first_is_named(tmp_path):
    _, file = trained(tmp_path / "lora", blocks=3)
    text = refusal(file)
    assert "4 of its 12 tensors match nothing in this run, the first transformer.blocks.2.to_k.lora_A.weight" in text
    assert "use the model family and flavour that it was trained on" in text
    text = refusal(file, blocks=4)
    assert "it lacks 4 of the 16 tensors of this run's adapter, the first transformer.blocks.3.to_k.lora_A.wei" in text
    _, file = trained(tmp_path / "lokr", lokr(), blocks=1)
    text = refusal(file, lokr())
    assert "it lacks 6 of the 12 tensors of this run's adapter, the first lycoris_blocks_1_to_k.alpha" in text
    assert "use the model family and flavour" in text
    everything = lokr(apply_preset={"target_module": ["Attention"], "exclude_name": [".*to_k"]})
    assert "use its apply_preset" in refusal(file, everything, blocks=1)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            {"factor": 2},
            "8 of its 12 tensors have other sizes, the first lycoris_blocks_0_to_k.lokr_w1 is 4x4, and 2x2 in this run",
        ),
        ({"linear_dim": 1}, "4 of its 12 tensors match nothing in this run, the first lycoris_blocks_0_to_k.lokr_w2;"),
    ],
)
def test_factors_and_ranks_that_differ_are_named(own, message, tmp_path):
    _, file = trained(tmp_path, lokr())
    with pytest.raises(ConfigError, match=message) as raised:
        make(Net(), settings(lokr(), file), lokr(**own))
    (key,) = own
    assert f"set {key} to {LOKR[key]}" in str(raised.value)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(file), bare)
    assert "factor, linear_dim, full_matrix and decompose_both" in refusal(bare, lokr(**own))


def test_an_alpha_that_acts_and_differs_is_refused(tmp_path):
    _, file = trained(tmp_path, lokr(linear_dim=1, linear_alpha=0.5))
    text = refusal(file, lokr(linear_dim=1, linear_alpha=1))
    assert "4 of its 4 alphas differ, the first lycoris_blocks_0_to_k.alpha is 0.5 and 1 in this run" in text
    assert "set linear_alpha to 0.5" in text

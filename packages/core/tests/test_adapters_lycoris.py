"""LoKr adapters: exact at the start, in training, in checkpoints, and when upstream loads them."""

from __future__ import annotations

import json

import pytest
import torch
from lycoris import create_lycoris_from_weights
from lycoris.wrapper import LycorisNetwork
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

from tuner.adapters import create_trainable, load_exported
from tuner.config.adapter import AdapterConfig
from tuner.config.lycoris import LycorisConfig
from tuner.errors import CheckpointError, ConfigError, ExportError
from tuner.testing.minimal import minimal_facts

FACTS = minimal_facts(class_aliases={"Attention": ("Attention",), "FeedForward": ("GLUMBConv",)})
SETTINGS = {"algo": "lokr", "multiplier": 1.0, "linear_dim": 10000, "linear_alpha": 1, "factor": 16}
LOW_RANK = {**SETTINGS, "linear_dim": 2, "factor": 4}


def make_adapter(denoiser, settings=None, preset=None, dtype=torch.float32, seed=7):
    values = {**(settings or SETTINGS)} | ({"apply_preset": preset} if preset is not None else {})
    return create_trainable(
        model_type="lora",
        adapter=AdapterConfig(lora_type="lycoris"),
        lycoris=LycorisConfig(**values),
        facts=FACTS,
        denoiser=denoiser,
        dtype=dtype,
        seed=seed,
    )


def train(denoise, trainable, steps=3, dtype=torch.float32):
    optimizer = torch.optim.SGD([parameter for _, parameter in trainable.named_parameters()], lr=0.5)
    losses = []
    for _ in range(steps):
        loss = denoise(trainable.denoiser, dtype).float().square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def shake(trainable):
    """Give every parameter a value far from its first, so that nothing is zero."""
    values = torch.Generator().manual_seed(11)
    for _, parameter in trainable.named_parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=values) * 0.2)


VARIANTS = {
    "full matrix": SETTINGS,
    "scalar": {**SETTINGS, "use_scalar": True},
    "low rank": LOW_RANK,
    "low rank, both, scalar": {**LOW_RANK, "decompose_both": True, "linear_dim": 1, "use_scalar": True},
    "bypass": {**SETTINGS, "bypass_mode": True},
    "bypass, low rank, strength": {**LOW_RANK, "bypass_mode": True, "linear_alpha": 3.5, "multiplier": 0.6},
}
variants = pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS.keys())


@variants
def test_a_fresh_adapter_changes_nothing(make_denoiser, denoise, settings):
    model = make_denoiser()
    with torch.no_grad():
        base = denoise(model)
        make_adapter(model, settings)
        torch.testing.assert_close(denoise(model), base, rtol=0, atol=0)


@variants
def test_training_lowers_the_loss_and_leaves_the_base_alone(make_denoiser, denoise, settings):
    model = make_denoiser()
    base = {name: value.clone() for name, value in model.state_dict().items()}
    losses = train(denoise, make_adapter(model, settings))
    assert losses[2] < losses[1] < losses[0]
    for name, value in model.state_dict().items():
        assert torch.equal(value, base[name])
    assert not any(parameter.requires_grad for parameter in model.parameters())


@variants
def test_upstream_loads_what_is_exported(make_denoiser, denoise, settings, tmp_path):
    model = make_denoiser()
    trainable = make_adapter(model, settings)
    shake(trainable)
    path = trainable.export(tmp_path, {"step": "3"})
    tensors = load_file(path)

    fresh = make_denoiser()
    network, _ = create_lycoris_from_weights(settings["multiplier"], str(path), fresh)
    network.apply_to()
    assert set(network.state_dict()) == tensors.keys()
    with torch.no_grad():
        expected, base = denoise(model), denoise(make_denoiser())
        assert (expected - base).abs().max() > 1e-3
        torch.testing.assert_close(denoise(fresh), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@variants
def test_reopened_adapter_gives_the_live_output(make_denoiser, denoise, settings, dtype, tmp_path):
    model = make_denoiser(dtype)
    trainable = make_adapter(model, settings, dtype=dtype)
    shake(trainable)
    path = trainable.export(tmp_path, {"step": "3"})
    fresh = make_denoiser(dtype)
    assert load_exported(tmp_path, fresh) == len(load_file(path))
    with torch.no_grad():
        expected = denoise(model, dtype)
        tolerance = 1e-6 if dtype == torch.float32 else 2e-2
        assert (denoise(fresh, dtype) - expected).norm() / expected.norm() < tolerance
    with safe_open(path, "pt") as file:
        assert file.metadata()["step"] == "3"
        saved = json.loads(file.metadata()["lycoris_config"])
    assert (saved["algo"], saved["factor"], saved["linear_dim"]) == ("lokr", settings["factor"], settings["linear_dim"])


@variants
def test_bypass_equals_rebuilding(make_denoiser, denoise, settings):
    outputs = []
    for bypass in (False, True):
        model = make_denoiser()
        shake(make_adapter(model, {**settings, "bypass_mode": bypass}))
        with torch.no_grad():
            outputs.append(denoise(model))
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-5, atol=1e-5)


@variants
def test_merged_weights_give_the_live_output(make_denoiser, denoise, settings):
    model = make_denoiser()
    trainable = make_adapter(model, settings)
    shake(trainable)
    merged = make_denoiser()
    unexpected = merged.load_state_dict(dict(trainable.merged_weights()), strict=False).unexpected_keys
    assert not unexpected
    with torch.no_grad():
        torch.testing.assert_close(denoise(merged), denoise(model), rtol=1e-5, atol=1e-5)


def test_bfloat16_keeps_small_changes(make_denoiser):
    exact = make_denoiser(torch.bfloat16).float()
    layer = "transformer_blocks.0.attn1.to_q"
    preset = {"target_name": [layer + "$"]}
    x = torch.randn(4, 64, generator=torch.Generator().manual_seed(5))
    changes = {}
    for name, model, bypass, dtype in (
        ("exact", exact, None, torch.float32),
        ("chosen", make_denoiser(torch.bfloat16), None, torch.bfloat16),
        ("rebuilt", make_denoiser(torch.bfloat16), False, torch.bfloat16),
    ):
        trainable = make_adapter(model, {**SETTINGS, "bypass_mode": bypass}, preset, dtype)
        for _, parameter in trainable.named_parameters():
            parameter.data.fill_(2**-8)
        module = trainable.network.loras[0]
        module.org_module[0].bias = None
        with torch.no_grad():
            # What the adapter adds, taken where no large output rounds it away.
            module.org_forward = lambda x: torch.zeros(x.shape, dtype=x.dtype)
            changes[name] = module(x.to(dtype)).float()
    size = changes["exact"].norm()
    assert (changes["chosen"] - changes["exact"]).norm() / size < 0.02
    assert (changes["rebuilt"] - changes["exact"]).norm() / size > 0.2


@variants
def test_state_round_trip_is_exact(make_denoiser, denoise, settings):
    trainable = make_adapter(make_denoiser(), settings)
    train(denoise, trainable)
    state = {name: tensor.clone() for name, tensor in trainable.state().items()}
    model = make_denoiser()
    again = make_adapter(model, settings, seed=8)
    again.load_state(state)
    assert [name for name, _ in again.named_parameters()] == [name for name, _ in trainable.named_parameters()]
    for name, tensor in again.state().items():
        assert torch.equal(tensor, state[name])
    with torch.no_grad():
        assert torch.equal(denoise(model), denoise(trainable.denoiser))


def test_state_of_another_adapter_is_refused(make_denoiser):
    state = make_adapter(make_denoiser(), LOW_RANK).state()
    with pytest.raises(CheckpointError, match=r"missing .*lokr_w2"):
        make_adapter(make_denoiser()).load_state(state)
    other = make_adapter(make_denoiser(torch.bfloat16), dtype=torch.bfloat16)
    with pytest.raises(CheckpointError, match="float32"):
        other.load_state(make_adapter(make_denoiser()).state())


def test_initial_values_depend_on_the_seed_alone(make_denoiser):
    first = make_adapter(make_denoiser(), seed=5).state()
    torch.manual_seed(123)
    second = make_adapter(make_denoiser(), seed=5).state()
    third = make_adapter(make_denoiser(), seed=6).state()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], third[name]) for name in first)


def test_disabled_gives_the_base_and_keeps_gradients(make_denoiser, denoise):
    model = make_denoiser()
    with torch.no_grad():
        base = denoise(model)
    trainable = make_adapter(model)
    shake(trainable)
    loss = denoise(model).square().mean()
    with torch.no_grad(), trainable.disabled():
        assert torch.equal(denoise(model), base)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for _, parameter in trainable.named_parameters())
    with torch.no_grad():
        assert not torch.allclose(denoise(model), base, atol=1e-3)


def test_strength_scales_what_is_added():
    model = nn.Sequential(nn.Linear(8, 8))
    trainable = make_adapter(model, {**SETTINGS, "multiplier": 0.5}, {"target_module": ["Linear"]})
    shake(trainable)
    x = torch.randn(3, 8)
    with torch.no_grad():
        full = model(x)
        with trainable.disabled():
            base = model(x)
        trainable.set_strength(0.25)
        torch.testing.assert_close(model(x), base + 0.25 * (full - base))
        trainable.set_strength(0)
        torch.testing.assert_close(model(x), base, rtol=0, atol=1e-7)


def test_export_takes_other_weights_and_puts_the_live_ones_back(make_denoiser, tmp_path):
    trainable = make_adapter(make_denoiser())
    shake(trainable)
    before = {name: tensor.clone() for name, tensor in trainable.state().items()}
    averages = {name: torch.full_like(parameter, 0.125) for name, parameter in trainable.named_parameters()}
    tensors = load_file(trainable.export(tmp_path, {}, averages))
    assert all(bool((value == 0.125).all()) for name, value in tensors.items() if not name.endswith("alpha"))
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainable.state().items())
    with pytest.raises(ExportError, match="exists"):
        trainable.export(tmp_path, {})


def test_folded_scalar_is_not_rounded(make_denoiser, tmp_path):
    trainable = make_adapter(make_denoiser(torch.bfloat16), {**SETTINGS, "use_scalar": True}, dtype=torch.bfloat16)
    shake(trainable)
    state = trainable.state()
    tensors = load_file(trainable.export(tmp_path, {}))
    name = "lycoris_transformer_blocks_0_attn1_to_q"
    assert torch.equal(tensors[f"{name}.lokr_w1"], state[f"{name}.lokr_w1"].float() * state[f"{name}.scalar"].float())
    assert tensors[f"{name}.lokr_w2"].dtype == torch.bfloat16


def test_reopening_on_another_model_names_what_is_left_over(make_denoiser, tmp_path):
    make_adapter(make_denoiser()).export(tmp_path, {})
    smaller = make_denoiser()
    del smaller.transformer_blocks[1]
    with pytest.raises(ExportError, match="lycoris_transformer_blocks_1_attn1"):
        load_exported(tmp_path, smaller)
    with pytest.raises(ExportError, match="cannot be read"):
        load_exported(tmp_path / "absent.safetensors", smaller)


def test_layers_that_could_not_be_loaded_again_are_refused():
    model = nn.Sequential(nn.Linear(16, 24))
    with pytest.raises(ConfigError, match=r"layer 0 \(24x16\)") as raised:
        make_adapter(model, preset={"target_module": ["Linear"]})
    assert raised.value.problems[0].key == "factor"
    make_adapter(model, {**SETTINGS, "factor": 4}, {"target_module": ["Linear"]})


def test_selection_is_upstreams_for_classes(make_denoiser):
    preset = {
        "target_module": ["SanaTransformerBlock"],
        "module_algo_map": {"Attention": {"factor": 8}, "GLUMBConv": {"factor": 4}},
    }
    ours = make_adapter(make_denoiser(), preset=preset)
    kept = {key: getattr(LycorisNetwork, key) for key in ("TARGET_REPLACE_MODULE", "MODULE_ALGO_MAP")}
    try:
        LycorisNetwork.apply_preset(preset)
        theirs = LycorisNetwork(make_denoiser(), 1.0, 10000, 10000, network_module="lokr", factor=16)
    finally:
        for key, value in kept.items():
            setattr(LycorisNetwork, key, value)
    expected = {f"{m.lora_name}.{key}": v.shape for m in theirs.loras for key, v in m.state_dict().items()}
    found = {f"{m.lora_name}.{key}": v.shape for m in ours.network.loras for key, v in m.state_dict().items()}
    assert found == expected


def test_making_and_reopening_prints_nothing_and_leaves_no_preset_behind(make_denoiser, tmp_path, capfd):
    before = {key: value for key, value in vars(LycorisNetwork).items() if key.isupper()}
    make_adapter(
        make_denoiser(), {**SETTINGS, "linear_dim": 12345}, {"name_algo_map": {".*to_q": {"factor": 4}}}
    ).export(tmp_path, {})
    load_exported(tmp_path, make_denoiser())
    assert {key: value for key, value in vars(LycorisNetwork).items() if key.isupper()} == before
    captured = capfd.readouterr()
    assert "LyCORIS" not in captured.out + captured.err


def test_description_counts_layers_and_parameters(make_denoiser):
    trainable = make_adapter(make_denoiser())
    # 2 blocks of 2 attentions with 4 layers each, and 3 convolutions.
    assert "LoKr on 22 layers" in trainable.description()
    assert "Attention 16, FeedForward 6" in trainable.description()
    assert f"{sum(p.numel() for _, p in trainable.named_parameters()):,} parameters" in trainable.description()


def test_a_layer_without_a_rank_is_refused(make_denoiser):
    settings = {**SETTINGS, "linear_dim": None, "full_matrix": True}
    with pytest.raises(ConfigError, match="needs linear_dim"):
        make_adapter(make_denoiser(), settings, {"module_algo_map": {"Attention": {"full_matrix": False}}})


@pytest.mark.parametrize("settings", [SETTINGS, LOW_RANK])
def test_an_input_without_tokens_gives_none_and_a_gradient_of_zero(make_denoiser, settings):
    model = make_denoiser()
    trainable = make_adapter(model, settings)
    model.transformer_blocks[0].attn1.to_q(torch.zeros(0, 64)).sum().backward()
    gradients = [weight.grad for _, weight in trainable.named_parameters() if weight.grad is not None]
    assert gradients
    assert not any(gradient.any() for gradient in gradients)

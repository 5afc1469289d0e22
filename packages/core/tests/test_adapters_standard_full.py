"""Standard LoRA and full training: what is trained, saved and loaded again."""

from __future__ import annotations

import json
import logging
from dataclasses import replace

import pytest
import torch
from diffusers import SanaPipeline, SanaTransformer2DModel
from safetensors.torch import load_file, save_file

from tuner.adapters import create_trainable, load_exported
from tuner.config.adapter import AdapterConfig
from tuner.errors import ConfigError, ExportError, PluginError, TunerError
from tuner.testing.minimal import minimal_facts

FACTS = minimal_facts(adapter_targets=("to_q", "to_k", "to_v", "to_out.0"))


def make(denoiser, model_type="lora", dtype=torch.float32, facts=FACTS, seed=7, **adapter):
    return create_trainable(
        model_type=model_type,
        adapter=AdapterConfig(lora_rank=4, **adapter),
        lycoris=None,
        facts=facts,
        denoiser=denoiser,
        dtype=dtype,
        seed=seed,
    )


def shake(trainable):
    values = torch.Generator().manual_seed(11)
    for _, parameter in trainable.named_parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=values) * 0.2)


def test_a_fresh_lora_changes_nothing_and_alone_is_trained(make_denoiser, denoise):
    model = make_denoiser()
    with torch.no_grad():
        base = denoise(model)
        trainable = make(model)
        assert torch.equal(denoise(model), base)
    # 2 blocks, 2 attentions, 4 layers, 2 matrices of rank 4 on sides of 64.
    assert len(trainable.named_parameters()) == 32
    assert trainable.parameter_count() == 32 * 4 * 64
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        name for name, _ in trainable.named_parameters()
    }
    assert "to_out.0 4" in trainable.description()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("alpha", [None, 1.5])
def test_diffusers_loads_what_is_exported(make_denoiser, denoise, dtype, alpha, tmp_path):
    model = make_denoiser(dtype)
    trainable = make(model, dtype=dtype, lora_alpha=alpha)
    shake(trainable)
    path = trainable.export(tmp_path, {"step": "3"})
    assert "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight" in load_file(path)

    fresh = make_denoiser(dtype)
    pipeline = SanaPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=fresh, scheduler=None)
    pipeline.load_lora_weights(tmp_path)
    reopened = make_denoiser(dtype)
    assert load_exported(tmp_path, reopened) == 32
    with torch.no_grad():
        expected = denoise(model, dtype)
        assert (expected - denoise(make_denoiser(dtype), dtype)).abs().max() > 1e-2
        tolerance = 1e-6 if dtype == torch.float32 else 0
        torch.testing.assert_close(denoise(fresh, dtype), expected, rtol=0, atol=tolerance)
        torch.testing.assert_close(denoise(reopened, dtype), expected, rtol=0, atol=tolerance)


def test_alpha_that_differs_from_the_rank_is_warned_of(make_denoiser, caplog):
    with caplog.at_level(logging.WARNING, logger="tuner"):
        make(make_denoiser())
        assert "lora_alpha" not in caplog.text
        make(make_denoiser(), lora_alpha=1.0)
    assert "4 times too strongly" in caplog.text


def test_targets_that_the_model_lacks_are_refused(make_denoiser):
    with pytest.raises(PluginError, match="to_p"):
        make(make_denoiser(), facts=replace(FACTS, adapter_targets=("to_q", "to_p")))


def test_dtype_seed_and_state(make_denoiser, denoise):
    model = make_denoiser(torch.bfloat16)
    trainable = make(model, dtype=torch.float32, seed=5)
    assert {parameter.dtype for _, parameter in trainable.named_parameters()} == {torch.float32}
    torch.manual_seed(99)
    again = make(make_denoiser(torch.bfloat16), dtype=torch.float32, seed=5)
    for name, tensor in trainable.state().items():
        assert torch.equal(again.state()[name], tensor)
    shake(trainable)
    again.load_state(trainable.state())
    with torch.no_grad():
        assert torch.equal(denoise(again.denoiser, torch.bfloat16), denoise(model, torch.bfloat16))


def test_disabled_and_strength(make_denoiser, denoise):
    model = make_denoiser()
    with torch.no_grad():
        base = denoise(model)
    trainable = make(model)
    shake(trainable)
    loss = denoise(model).square().mean()
    with torch.no_grad(), trainable.disabled():
        assert torch.equal(denoise(model), base)
    loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for _, parameter in trainable.named_parameters())
    assert {name for name, value in model.named_parameters() if value.requires_grad} == {
        name for name, _ in trainable.named_parameters()
    }
    with torch.no_grad():
        trainable.set_strength(0)
        assert torch.equal(denoise(model), base)
        trainable.set_strength(1)
        assert not torch.allclose(denoise(model), base, atol=1e-2)


def test_reopening_on_another_model_is_refused(make_denoiser, tmp_path):
    make(make_denoiser()).export(tmp_path, {})
    smaller = make_denoiser()
    del smaller.transformer_blocks[1]
    with pytest.raises(ExportError, match=r"transformer_blocks\.1\."):
        load_exported(tmp_path, smaller)


class Plain(torch.nn.Module):
    """A network that diffusers gives no loader for adapters."""

    def __init__(self, width=16):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList(
            torch.nn.ModuleDict({name: torch.nn.Linear(width, width) for name in ("to_q", "to_k", "other")})
            for _ in range(2)
        )
        self.eval()

    def forward(self, x):
        for block in self.blocks:
            x = torch.tanh(block["other"](block["to_q"](x) * block["to_k"](x)))
        return x


PLAIN_FACTS = replace(FACTS, adapter_targets=("to_q", "to_k"))


@pytest.mark.parametrize("alpha", [None, 1.5])
def test_a_network_without_a_loader_is_reopened_by_peft(alpha, tmp_path):
    model, x = Plain(), torch.linspace(-2, 2, 48).view(3, 16)
    base = model(x)
    trainable = make(model, facts=PLAIN_FACTS, lora_alpha=alpha)
    shake(trainable)
    trainable.export(tmp_path, {})
    reopened = Plain()
    assert load_exported(tmp_path, reopened) == 8
    assert not any(value.requires_grad for value in reopened.parameters())
    assert not any(module.training for module in reopened.modules())
    assert (model(x) - base).abs().max() > 1e-2
    torch.testing.assert_close(reopened(x), model(x), rtol=0, atol=1e-6)


def test_a_file_without_settings_is_reopened_by_its_shapes(tmp_path):
    model, x = Plain(), torch.linspace(-2, 2, 48).view(3, 16)
    trainable = make(model, facts=PLAIN_FACTS)
    shake(trainable)
    bare = tmp_path / "bare.safetensors"
    save_file(load_file(trainable.export(tmp_path, {})), bare)
    reopened = Plain()
    assert load_exported(bare, reopened) == 8
    torch.testing.assert_close(reopened(x), model(x), rtol=0, atol=1e-6)


def test_a_network_without_a_loader_refuses_what_does_not_fit(tmp_path):
    make(Plain(), facts=PLAIN_FACTS).export(tmp_path, {})
    shorter, wider, other = Plain(), Plain(width=24), torch.nn.ModuleDict({"to_x": torch.nn.Linear(16, 16)})
    del shorter.blocks[1]
    with pytest.raises(ExportError, match=r"4 of 8 tensors .*blocks\.1\."):
        load_exported(tmp_path, shorter)
    with pytest.raises(ExportError, match="does not fit Plain"):
        load_exported(tmp_path, wider)
    with pytest.raises(ExportError, match="ModuleDict"):
        load_exported(tmp_path, other)


def test_full_training_saves_a_model_that_diffusers_loads(make_denoiser, tmp_path):
    model = make_denoiser()
    trainable = make(model, model_type="full")
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert trainable.parameter_count() == sum(parameter.numel() for parameter in model.parameters())
    folder = trainable.export(tmp_path, {"step": "3"})
    assert folder == tmp_path / "transformer"
    assert json.loads((folder / "training_metadata.json").read_text())["step"] == "3"
    loaded = SanaTransformer2DModel.from_pretrained(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)
    with pytest.raises(ExportError, match="exists"):
        trainable.export(tmp_path, {})
    assert [entry.name for entry in tmp_path.iterdir()] == ["transformer"]


def test_full_training_exports_averages_and_restores(make_denoiser, tmp_path):
    model = make_denoiser()
    trainable = make(model, model_type="full")
    before = {name: tensor.clone() for name, tensor in trainable.state().items()}
    averages = {name: parameter.detach() * 0.5 for name, parameter in trainable.named_parameters()}
    loaded = SanaTransformer2DModel.from_pretrained(trainable.export(tmp_path, {}, averages)).state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in averages.items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in trainable.state().items())


def test_full_training_has_no_base_and_no_adapter(make_denoiser):
    trainable = make(make_denoiser(), model_type="full")
    with pytest.raises(TunerError, match="model_type lora"):
        trainable.disabled()
    with pytest.raises(TunerError, match="model_type lora"):
        trainable.set_strength(0.5)


def test_lycoris_without_its_file_is_refused(make_denoiser):
    with pytest.raises(ConfigError, match="lycoris_config"):
        make(make_denoiser(), lora_type="lycoris")

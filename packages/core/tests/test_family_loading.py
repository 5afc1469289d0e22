from __future__ import annotations

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from transformers import UMT5Config, UMT5EncoderModel

from tuner.family.loading import ModelFolderError, load_model, load_scheduler, load_tokenizer
from tuner.family.twins import gemma_tokenizer
from tuner.types import ComponentRequest, NoOptions


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("published")
    AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1).save_pretrained(folder / "vae")
    UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).save_pretrained(
        folder / "text_encoder"
    )
    gemma_tokenizer().save_pretrained(folder / "tokenizer")
    FlowMatchEulerDiscreteScheduler(shift=1.73).save_pretrained(folder / "scheduler")
    return folder


@pytest.fixture
def folder(published, tmp_path):
    return shutil.copytree(published, tmp_path / "model")


def ask(folder, dtype=torch.float32):
    parts = frozenset({"codec", "text_encoders", "scheduler"})
    return ComponentRequest(folder, parts, dtype, torch.device("cpu"), NoOptions(), {"codec": torch.float32})


def test_models_come_frozen_in_the_dtype_of_their_part(folder):
    vae = load_model(ask(folder, torch.bfloat16), "codec", "vae", AutoencoderKL)
    encoder = load_model(ask(folder, torch.bfloat16), "text_encoders", "text_encoder", UMT5EncoderModel)
    assert (vae.dtype, encoder.dtype) == (torch.float32, torch.bfloat16)
    for model in (vae, encoder):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
    stored = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(tensor, stored[name]) for name, tensor in vae.state_dict().items())


@pytest.mark.parametrize(
    ("sub", "stem", "part", "model_class"),
    [
        ("vae", "diffusion_pytorch_model", "codec", AutoencoderKL),
        ("text_encoder", "model", "text_encoders", UMT5EncoderModel),
    ],
)
def test_a_variant_stands_in_for_absent_plain_weights(folder, sub, stem, part, model_class):
    plain = folder / sub / f"{stem}.safetensors"
    weights = load_file(plain)
    for variant, factor in (("fp16", 3.0), ("bf16", 2.0)):
        save_file(
            {name: tensor * factor for name, tensor in weights.items()},
            plain.with_name(f"{stem}.{variant}.safetensors"),
            {"format": "pt"},
        )
    name = next(iter(weights))
    for factor, gone in ((1.0, plain), (2.0, plain.with_name(f"{stem}.bf16.safetensors")), (3.0, None)):
        model = load_model(ask(folder), part, sub, model_class)
        assert torch.equal(model.state_dict()[name], factor * weights[name])
        if gone:
            gone.unlink()


def test_sharded_weights(folder):
    vae = load_model(ask(folder), "codec", "vae", AutoencoderKL)
    shutil.rmtree(folder / "vae")
    vae.save_pretrained(folder / "vae", max_shard_size="20KB", variant="bf16")
    assert not (folder / "vae" / "diffusion_pytorch_model.safetensors").exists()
    again = load_model(ask(folder), "codec", "vae", AutoencoderKL)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in vae.state_dict().items())


def test_weights_that_can_run_code_are_refused(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").rename(folder / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(ModelFolderError, match=r"diffusion_pytorch_model\.bin can run code"):
        load_model(ask(folder), "codec", "vae", AutoencoderKL)


def test_missing_parts_and_weights_are_named(folder):
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelFolderError, match=r"vae: diffusion_pytorch_model\.safetensors is missing"):
        load_model(ask(folder), "codec", "vae", AutoencoderKL)
    with pytest.raises(ModelFolderError, match=r"text_encoder_2: config\.json is missing"):
        load_model(ask(folder), "text_encoders", "text_encoder_2", UMT5EncoderModel)
    with pytest.raises(ModelFolderError, match=r"tokenizer_2: tokenizer_config\.json is missing"):
        load_tokenizer(ask(folder), "tokenizer_2")


def test_another_architecture_is_refused(folder):
    with pytest.raises(ModelFolderError, match="holds a AutoencoderKL, and this family needs a AutoencoderDC"):
        load_model(ask(folder), "codec", "vae", AutoencoderDC)


@pytest.mark.parametrize(
    ("sub", "stem", "part", "model_class"),
    [
        ("vae", "diffusion_pytorch_model", "codec", AutoencoderKL),
        ("text_encoder", "model", "text_encoders", UMT5EncoderModel),
    ],
)
@pytest.mark.parametrize("damage", ["truncated", "incomplete", "reshaped"])
def test_damaged_weights_are_refused(folder, sub, stem, part, model_class, damage):
    path = folder / sub / f"{stem}.safetensors"
    weights = load_file(path)
    name = sorted(weights)[0]
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "incomplete":
        save_file({key: tensor for key, tensor in weights.items() if key != name}, path, {"format": "pt"})
    else:
        save_file({**weights, name: torch.zeros(7)}, path, {"format": "pt"})
    with pytest.raises(ModelFolderError, match=f"{folder / sub}: .*\n    -> "):
        load_model(ask(folder), part, sub, model_class)


def test_the_scheduler_is_of_the_class_that_its_configuration_names(folder):
    scheduler = load_scheduler(ask(folder))
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    assert scheduler.config.shift == 1.73


@pytest.mark.parametrize("name", ["NoSuchScheduler", "AutoencoderKL", None])
def test_an_unknown_scheduler_is_refused(folder, name):
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": name}), encoding="utf-8")
    with pytest.raises(ModelFolderError, match=f"_class_name {name!r} is no scheduler"):
        load_scheduler(ask(folder))


def test_a_damaged_configuration_is_refused(folder):
    (folder / "vae" / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelFolderError, match=r"config\.json: cannot be read as JSON"):
        load_model(ask(folder), "codec", "vae", AutoencoderKL)


def test_tokenizers_reload_as_they_were(folder):
    text = "a photo of Zoë\n42"
    assert load_tokenizer(ask(folder)).encode(text) == gemma_tokenizer().encode(text)

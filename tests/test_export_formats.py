"""Adapters in the formats of other programs: names by diffusers' own conversions, and round trips to the bit."""

import json

import numpy as np
import pytest
import torch
from diffusers.loaders import single_file_utils
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers.models.phi3.modeling_phi3 import Phi3Config, Phi3DecoderLayer

from tuner.adapters import apply_saved
from tuner.adapters.conversion import convert, read_adapter
from tuner.adapters.differences import difference
from tuner.adapters.lokr import upstream_name
from tuner.adapters.names import LayerNames, templates_of
from tuner.cli.main import main
from tuner.errors import ExportError
from tuner.provenance import Provenance, read_header
from tuner.randomness import normal_tensor

FAMILIES = ["auraflow", "cosmos2", "hidream", "omnigen", "sana"]
FUSED = ["omnigen", "sana"]
CONVERTERS = {
    "auraflow": single_file_utils.convert_auraflow_transformer_checkpoint_to_diffusers,
    "cosmos2": single_file_utils.convert_cosmos_transformer_checkpoint_to_diffusers,
    "hidream": single_file_utils.convert_hidream_transformer_to_diffusers,
    "sana": single_file_utils.convert_sana_transformer_to_diffusers,
}
PREFIX = {"cosmos2": "net.", "hidream": "model.diffusion_model."}
BESIDE = {
    "sana": ["pos_embed", "y_embedder.y_embedding", "attention_y_norm.weight", "final_layer.scale_shift_table"],
    "auraflow": ["positional_encoding"],
}
"""Tensors that diffusers' conversions insist on, and that are no layers."""

UNNAMED = {
    "auraflow": {"norm_out.linear"},
    "omnigen": {"norm_out.linear", "proj_out", "patch_embedding.input_image_proj", "patch_embedding.output_image_proj",
                "t_embedder.linear_1", "t_embedder.linear_2", "time_token.linear_1", "time_token.linear_2"},
}  # fmt: skip


@pytest.fixture(params=FAMILIES)
def family(request, adapted_twin):
    return adapted_twin(request.param)


@pytest.fixture(params=FUSED)
def fused(request, adapted_twin):
    return adapted_twin(request.param)


def layers_of(twin) -> dict[str, torch.nn.Module]:
    modules = twin.load("denoiser").denoiser.named_modules()
    return {name: module for name, module in modules if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d))}


def test_names_are_one_to_one(family):
    facts = family.family.facts
    names, layers = LayerNames(facts), layers_of(family)
    templates = templates_of(facts.original_layers)
    assert len(set(templates)) == len(templates)
    assert len({entry.original for entry in facts.original_layers}) == len(facts.original_layers)
    unnamed = UNNAMED.get(facts.name, set())
    places = {layer: names.place_of(layer) for layer in layers.keys() - unnamed}
    assert len(set(places.values())) == len(places)
    for layer, place in places.items():
        assert names.layers_of(place.original)[place.part] == layer
        assert len(names.layers_of(place.original)) == place.parts
        flat = f"lycoris_{layer.replace('.', '_')}"
        assert names.dotted([flat]) == {flat: layer}
    for layer in unnamed:
        with pytest.raises(ExportError, match="has no name for layer"):
            names.place_of(layer)


@pytest.mark.parametrize("name", sorted(CONVERTERS))
def test_the_names_are_those_that_diffusers_converts(name, adapted_twin):
    twin = adapted_twin(name)
    names = LayerNames(twin.family.facts)
    parts: dict[str, dict[int, torch.Tensor]] = {}
    expected = {}
    for layer, module in layers_of(twin).items():
        if layer in UNNAMED.get(name, set()):
            continue
        place = names.place_of(layer)
        for key, value in module.named_parameters():
            parts.setdefault(f"{place.original}.{key}", {})[place.part] = value.detach()
            expected[f"{layer}.{key}"] = value.detach()
    original = {key: torch.cat([blocks[part] for part in sorted(blocks)]) for key, blocks in parts.items()}
    original |= {key: torch.zeros(1) for key in BESIDE.get(name, [])}
    if name == "sana":
        original |= {f"blocks.{number}.scale_shift_table": torch.zeros(1) for number in range(2)}
    found = CONVERTERS[name]({PREFIX.get(name, "") + key: value for key, value in original.items()})
    for key, value in expected.items():
        assert torch.equal(found[key], value), key


def test_omnigens_names_are_those_of_phi3():
    layer = Phi3DecoderLayer(Phi3Config(hidden_size=8, intermediate_size=16, num_attention_heads=2, pad_token_id=0), 0)
    linear = {name for name, module in layer.named_modules() if isinstance(module, torch.nn.Linear)}
    assert linear == {"self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"}


def test_a_lora_goes_through_all_formats_and_comes_back_to_the_bit(family, tmp_path):
    facts = family.family.facts
    before = load_file(family.lora)
    comfy = convert(family.lora, tmp_path / "comfy.safetensors", "comfyui", facts)
    lycoris = convert(comfy, tmp_path / "lycoris", "lycoris", facts)
    back = convert(lycoris, tmp_path / "back.safetensors", "diffusers", facts)
    after = load_file(back)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert all(name.startswith("diffusion_model.") for name in load_file(comfy))
    for file in (comfy, lycoris, back):
        assert Provenance.of(read_header(file).metadata).family == facts.name
    wanted = velocity(family, family.lora)
    for file in (lycoris, back):
        torch.testing.assert_close(velocity(family, file), wanted, rtol=1e-4, atol=1e-5)


def velocity(twin, file) -> torch.Tensor:
    denoiser = twin.load("denoiser").denoiser
    apply_saved(file, denoiser)
    return twin.velocity(denoiser)


def test_what_comfyui_adds_to_a_weight_is_what_the_lora_adds(family, tmp_path):
    """ComfyUI adds alpha / rank * up @ down to the weight whose name stands before the ending."""
    facts = family.family.facts
    names = LayerNames(facts)
    comfy = load_file(convert(family.lora, tmp_path / "comfy.safetensors", "comfyui", facts))
    adapter = read_adapter(family.lora, facts).layers
    checked = 0
    for layer, values in adapter.items():
        place = names.place_of(layer)
        up, down, alpha = (
            comfy[f"diffusion_model.{place.original}.{key}"] for key in ("lora_up.weight", "lora_down.weight", "alpha")
        )
        added = (alpha / down.shape[0] * up @ down).chunk(place.parts)[place.part]
        own = values["alpha"] / 4 * values["lora_up.weight"] @ values["lora_down.weight"]
        torch.testing.assert_close(added, own, rtol=1e-5, atol=1e-6)
        checked += 1
    assert checked == len(load_file(family.lora)) / 2 > 4


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - set(FUSED)))
def test_a_lokr_keeps_every_bit_under_original_names(name, adapted_twin, tmp_path):
    twin = adapted_twin(name)
    comfy = convert(twin.lokr, tmp_path / "comfy.safetensors", "comfyui", twin.family.facts)
    back = convert(comfy, tmp_path / "back.safetensors", "lycoris", twin.family.facts)
    before, after = load_file(twin.lokr), load_file(back)
    assert before.keys() == after.keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())


def test_what_a_format_cannot_hold_is_refused(fused, tmp_path):
    facts = fused.family.facts
    odd = tmp_path / "odd.safetensors"
    name = next(entry for entry in facts.original_layers if len(entry.layers) > 1).layers[0].format(0)
    save_file({f"{upstream_name(name)}.{key}": torch.zeros(2, 2) for key in ("on_input", "weight")}, odd)
    with pytest.raises(ExportError, match="in one matrix"):
        convert(odd, tmp_path / "comfy.safetensors", "comfyui", facts)
    odd.unlink()
    with pytest.raises(ExportError, match="it is no LoRA"):
        convert(fused.lokr, tmp_path / "diffusers.safetensors", "diffusers", facts)
    assert not list(tmp_path.iterdir())


def test_lokrs_of_a_fused_layer_become_what_they_add(fused, tmp_path, caplog):
    """ComfyUI adds `diff` to the weight whose name stands before it."""
    facts = fused.family.facts
    names = LayerNames(facts)
    comfy = convert(fused.lokr, tmp_path / "comfy.safetensors", "comfyui", facts)
    assert "whose LoKrs are no LoKr" in caplog.text
    tensors, lokr = load_file(comfy), load_file(fused.lokr)
    assert {name.removesuffix(".diff") for name in tensors if name.endswith(".diff")} == {
        f"diffusion_model.{names.place_of(layer).original}"
        for layer in read_adapter(fused.lokr, facts).layers
        if names.place_of(layer).parts > 1
    }
    checked = 0
    for layer, module in layers_of(fused).items():
        name = upstream_name(layer)
        if f"{name}.alpha" not in lokr or names.place_of(layer).parts == 1:
            continue
        place = names.place_of(layer)
        own = {key.removeprefix(f"{name}."): value for key, value in lokr.items() if key.startswith(f"{name}.")}
        # alpha 3 and rank 2, as the adapter was made.
        added = 3 / 2 * torch.kron(own["lokr_w1"], own["lokr_w2_a"] @ own["lokr_w2_b"])
        whole = tensors[f"diffusion_model.{place.original}.diff"]
        assert whole.shape == (place.parts * module.weight.shape[0], module.weight.shape[1])
        assert torch.equal(whole.chunk(place.parts)[place.part], added)
        checked += 1
    assert checked >= 6
    wanted = velocity(fused, fused.lokr)
    back = convert(comfy, tmp_path / "back.safetensors", "lycoris", facts)
    torch.testing.assert_close(velocity(fused, back), wanted, rtol=1e-4, atol=1e-5)
    again = convert(back, tmp_path / "again.safetensors", "comfyui", facts)
    assert {name: value.tolist() for name, value in load_file(again).items()} == {
        name: value.tolist() for name, value in tensors.items()
    }


def test_parts_without_an_adapter_stay_without_one(fused, tmp_path):
    facts = fused.family.facts
    entry = next(entry for entry in facts.original_layers if len(entry.layers) > 1)
    layers = [layer.format(0) for layer in entry.layers]
    w1, w2 = normal_tensor((2, 2), 0, "w1"), normal_tensor((4, 8), 0, "w2")
    lokr = {f"{upstream_name(layers[1])}.{key}": value for key, value in {"lokr_w1": w1, "lokr_w2": w2}.items()}
    save_file(lokr, tmp_path / "one.safetensors")
    comfy = convert(tmp_path / "one.safetensors", tmp_path / "comfy.safetensors", "comfyui", facts)
    (whole,) = load_file(comfy).values()
    rows = whole.chunk(len(layers))
    assert torch.equal(rows[1], torch.kron(w1, w2))
    assert not any(part.any() for number, part in enumerate(rows) if number != 1)
    found = read_adapter(comfy, facts).layers
    assert list(found) == [layers[1]]
    assert torch.equal(found[layers[1]]["diff"], rows[1])


@pytest.mark.parametrize("low_rank", [True, False])
def test_a_multiplier_beside_the_tensors_goes_into_them(low_rank, adapted_twin, tmp_path):
    """ComfyUI reads no settings, so a LoKr that acts at half its strength must hold half of it."""
    twin = adapted_twin("hidream")
    facts, layer = twin.family.facts, "double_stream_blocks.0.block.attn1.to_q"
    second = {"lokr_w2_a": (16, 2), "lokr_w2_b": (2, 16)} if low_rank else {"lokr_w2": (16, 16)}
    values = {key: normal_tensor(shape, 0, key) for key, shape in {"lokr_w1": (4, 4), "alpha": (), **second}.items()}
    lokr = {f"{upstream_name(layer)}.{key}": value for key, value in values.items()}
    save_file(lokr, tmp_path / "half.safetensors", {"lycoris_config": json.dumps({"algo": "lokr", "multiplier": 0.5})})
    comfy = convert(tmp_path / "half.safetensors", tmp_path / "comfy.safetensors", "comfyui", facts)
    (found,) = read_adapter(comfy, facts).layers.values()
    torch.testing.assert_close(difference(found), 0.5 * difference(values))
    assert json.loads(read_header(comfy).metadata["lycoris_config"])["multiplier"] == 1.0
    wanted = velocity(twin, tmp_path / "half.safetensors")
    back = convert(comfy, tmp_path / "back.safetensors", "lycoris", facts)
    torch.testing.assert_close(velocity(twin, back), wanted, rtol=1e-5, atol=1e-6)
    same = convert(tmp_path / "half.safetensors", tmp_path / "same.safetensors", "lycoris", facts)
    assert torch.equal(velocity(twin, same), wanted)


@pytest.mark.parametrize(("name", "kind"), [("sana", "lokr"), ("sana", "lora"), ("hidream", "lokr")])
def test_generate_reads_what_is_exported_for_comfyui(name, kind, adapted_twin, tmp_path, monkeypatch, capsys):
    twin = adapted_twin(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    adapter = getattr(twin, kind)
    comfy = convert(adapter, tmp_path / "comfy.safetensors", "comfyui", twin.family.facts)

    def picture(file, *more):
        few = ["--base", twin.folder, "--prompt", "a cat", "--resolution", 64, "--steps", 2]
        assert main(["generate", *map(str, ["--adapter", file, *few, *more])]) == 0, capsys.readouterr().err
        return np.asarray(Image.open(capsys.readouterr().out.strip())).astype(int)

    wanted = picture(adapter)
    assert np.abs(picture(comfy) - wanted).max() <= 2
    assert np.abs(picture(comfy, "--strength", 0) - wanted).max() > 2


def test_a_fused_lora_of_another_program_is_taken_apart_exactly(fused, tmp_path):
    """Its parts share one matrix, so that no block of it is zero."""
    facts = fused.family.facts
    entry = next(entry for entry in facts.original_layers if len(entry.layers) > 1)
    original, count = entry.original.format(0), len(entry.layers)
    size = layers_of(fused)[entry.layers[0].format(0)].weight.shape
    up, down = normal_tensor((size[0] * count, 3), 0, "up"), normal_tensor((3, size[1]), 0, "down")
    prefix = f"diffusion_model.{original}"
    save_file({f"{prefix}.lora_up.weight": up, f"{prefix}.lora_down.weight": down}, tmp_path / "a.safetensors")
    layers = read_adapter(tmp_path / "a.safetensors", facts).layers
    assert list(layers) == [layer.format(0) for layer in entry.layers]
    products = [values["lora_up.weight"] @ values["lora_down.weight"] for values in layers.values()]
    torch.testing.assert_close(torch.cat(products), up @ down, rtol=0, atol=1e-6)
    assert {float(values["alpha"]) for values in layers.values()} == {3.0}


def test_the_command_overwrites_nothing(adapted_twin, tmp_path, capsys):
    twin = adapted_twin("sana")
    target = tmp_path / "out.safetensors"
    assert main(["export", str(twin.lora), str(target), "--format", "comfyui"]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    content = target.read_bytes()
    assert main(["export", str(twin.lora), str(target), "--format", "lycoris"]) == 1
    assert "never overwritten" in capsys.readouterr().err
    assert target.read_bytes() == content
    assert main(["export", str(twin.lora), str(tmp_path / "out.ckpt"), "--format", "lycoris"]) == 1
    assert "never written" in capsys.readouterr().err
    assert not (tmp_path / "out.ckpt").exists()
    assert main(["explain", str(target), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["weights"]["kinds"].keys() == {"LoRA (kohya's and LyCORIS' names)"}
    assert found["provenance"]["family"] == "sana"

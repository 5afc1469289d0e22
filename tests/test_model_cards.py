"""Model cards of all families: front matter, code and escaping. What the code does is in test_publishing_runs.py."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from tuner.adapters.standard import StandardLora
from tuner.config.adapter import AdapterConfig
from tuner.config.loading import load_config
from tuner.events import ImagesValidated
from tuner.plugins import create_manager, load_family
from tuner.publishing.card import escaped, render_card
from tuner.publishing.card_file import is_untouched, sealed
from tuner.publishing.pictures import last_round
from tuner.publishing.story import CardPicture, Story
from tuner.publishing.usage import usage_code
from tuner.testing.hub import card_problems
from tuner.types import ComponentRequest

FAMILIES = ["auraflow", "cosmos2", "hidream", "omnigen", "sana"]
KINDS = {
    "lora": {"lora_type": "standard"},
    "lokr": {"lora_type": "lycoris"},
    "full": {"model_type": "full", "learning_rate": 1e-5},
}


@pytest.fixture
def story(project):
    def story(family="sana", kind="lora", base=None, settings=None, **told):
        loaded = load_config(project(model_family=family, **KINDS[kind], **(settings or {})))
        facts = loaded.family.facts
        origin = {"base_model": base or facts.flavours[facts.default_flavour].repo, "seed": "7"}
        return Story(**{"config": loaded.config, "facts": facts, "origin": origin, "samples": {}, "step": 5, **told})

    return story


def front_matter(text):
    card = ModelCard(text)
    assert card_problems(card.data.to_dict()) == []
    return card.data


def code_of(text):
    return re.search(r"^(`{3,})python\n(.*?)^\1$", text, re.DOTALL | re.MULTILINE)[2]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("repository", ["someone/mine", None])
def test_every_family_and_kind_has_valid_front_matter_and_code(story, family, kind, repository):
    told = story(family, kind, repository=repository)
    text = render_card(told)
    data = front_matter(text)
    assert data.base_model == told.facts.flavours[told.facts.default_flavour].repo
    assert data.base_model_relation == ("finetune" if kind == "full" else "adapter")
    assert {"text-to-image", family, "tuner"} <= set(data.tags)
    assert data.pipeline_tag == "text-to-image"
    code = code_of(text)
    compile(code, "card", "exec")
    assert (repository in code) if repository else "someone" not in code
    assert "manual_seed(7)" in code
    assert told.facts.usage.pipeline in code
    assert ("`tuner export pytorch_lora_weights.safetensors NAME.safetensors --format comfyui`" in text) == (
        kind != "full"
    )


@pytest.mark.parametrize(
    ("family", "base", "licence"),
    [
        ("hidream", None, {"license": "mit"}),
        ("omnigen", None, {"license": "mit"}),
        ("auraflow", None, {"license": "apache-2.0"}),
        ("auraflow", "purplesmartai/pony-v7-base", {"license": "other", "license_name": "its-own-licence"}),
        ("cosmos2", None, {"license": "other", "license_name": "nvidia-open-model-license"}),
        ("sana", "owner/unknown", {"license": None}),
        ("sana", "folder", {"license": None, "base_model": None}),
    ],
)
def test_a_licence_is_named_where_it_is_known(story, family, base, licence):
    text = render_card(story(family, base=base))
    data = front_matter(text)
    assert {name: getattr(data, name) for name in licence} == licence
    if licence["license"] is None:
        assert f"That of the base model, {base}, which says itself what it is." in text


def test_settings_of_a_family_reach_the_call(story):
    pony = story("auraflow", settings={"auraflow_token_limit": 768})
    assert "max_sequence_length=768," in usage_code(pony)
    assert "complex_human_instruction" not in usage_code(story("sana"))
    plain = story("sana", settings={"sana_complex_human_instruction": "None"})
    assert "complex_human_instruction=None," in usage_code(plain)
    unguided = story("sana", settings={"validation_guidance": 1.0})
    assert "negative_prompt" not in usage_code(unguided)
    assert "negative_prompt" not in usage_code(story("omnigen"))


def test_what_a_base_repository_lacks_is_loaded_from_elsewhere(story):
    code = usage_code(story("hidream"))
    assert 'tokenizer_4 = AutoTokenizer.from_pretrained("terminusresearch/HiDream-I1-Llama-3.1-8B-Instruct")' in code
    assert "tokenizer_4=tokenizer_4" in code
    full = usage_code(story("hidream", "full", repository="someone/mine"))
    assert 'tokenizer_4 = AutoTokenizer.from_pretrained("someone/mine", subfolder="tokenizer_4")' in full


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    """Write a family's twin and a LoRA for it beside it, and go there."""

    def adapted(story):
        hook = create_manager(load_family(story.facts.name)).hook
        hook.make_twin(folder=tmp_path / "twin")
        config = AdapterConfig(lora_type="standard", lora_rank=3, lora_alpha=6)
        trained = StandardLora(load_denoiser(story), config, story.facts, torch.bfloat16, 1)
        for number, (_, parameter) in enumerate(trained.named_parameters()):
            parameter.data.normal_(generator=torch.Generator().manual_seed(number))
        return trained.export(tmp_path, {})

    def load_denoiser(story):
        parts, options = frozenset({"denoiser"}), story.facts.options()
        request = ComponentRequest(tmp_path / "twin", parts, torch.bfloat16, torch.device("cpu"), options)
        return create_manager(load_family(story.facts.name)).hook.load_components(request=request).denoiser

    monkeypatch.chdir(tmp_path)
    adapted.load_denoiser = load_denoiser
    return adapted


@pytest.mark.parametrize("family", ["omnigen", "cosmos2"])
def test_the_code_loads_a_lora_where_diffusers_has_no_loader(story, adapted, family):
    told = story(family)
    wanted = load_file(adapted(told))
    code = usage_code(told)
    loading = code[code.index("file = ") : code.index("picture = ")]
    imports = "".join(line for line in code.splitlines(keepends=True) if "import " in line)
    names = {"pipeline": SimpleNamespace(transformer=adapted.load_denoiser(told)), "device": "cpu"}
    exec(imports + loading, names)
    network = names["pipeline"].transformer
    found = {f"transformer.{name}": value for name, value in get_peft_model_state_dict(network).items()}
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert {module.scaling["default"] for module in network.modules() if hasattr(module, "scaling")} == {2.0}


@pytest.mark.parametrize("family", ["auraflow", "hidream"])
def test_the_code_makes_a_picture(story, adapted, family):
    sizes = {"validation_resolution": "128x192", "validation_num_inference_steps": 2}
    told = story(family, base="twin", settings=sizes)
    adapted(told)
    # What the twin's own folder holds comes from another repository otherwise.
    code = re.sub(
        r'(\w+) = (\w+)\.from_pretrained\("terminusresearch/[^"]*"',
        r'\1 = \2.from_pretrained("twin", subfolder="\1"',
        usage_code(told),
    )
    names = {}
    exec(code, names)
    assert len(get_peft_model_state_dict(names["pipeline"].transformer, adapter_name="default_0")) > 0
    Path("pipeline").symlink_to("twin")
    whole = {}
    exec(usage_code(story(family, "full", settings=sizes)), whole)
    made, base = np.asarray(names["picture"], dtype=float), np.asarray(whole["picture"], dtype=float)
    assert made.shape == base.shape == (192, 128, 3)
    assert np.abs(made - base).mean() > 1


def test_what_people_wrote_stays_text(story):
    nasty = 'a `b` ``` <script>x</script> | [c](http://d) \\ "e"\n---\nlicense: mit'
    pictures = (CardPicture("validation_images/step_1_a b_0_8x8.png", "a b", nasty),)
    text = render_card(story(pictures=pictures, instance_prompt=nasty, samples={"photographs": 6}))
    data = front_matter(text)
    assert data.instance_prompt == nasty
    assert data.license == "other"
    assert data.widget == [{"text": nasty, "output": {"url": "validation_images/step_1_a%20b_0_8x8.png"}}]
    body = ModelCard(text).text
    assert "<script>" not in body.replace(code_of(text), "")
    names = {}
    exec("value = dict(" + re.search(r"prompt=.*", code_of(text))[0] + ")", names)
    assert names["value"] == {"prompt": nasty}
    assert "trained for 5 steps on 6 pictures" in body
    assert escaped("a|b\n*c* [d] <e>") == r"a\|b \*c\* \[d\] &lt;e&gt;"


def test_a_seal_is_broken_by_any_change():
    text = sealed("# a card\n\ntext")
    assert is_untouched(text)
    assert is_untouched(text.replace("\n", "\r\n"))
    for changed in ("# a card", text.replace("text", "texts"), text + "more\n", text.replace("# a", "# b"), ""):
        assert not is_untouched(changed)


def test_the_last_round_is_found_again(project, tmp_path):
    settings = {"validation_prompt": "a cat", "validation_step_interval": 2, "user_prompt_library": "prompts.json"}
    (tmp_path / "prompts.json").write_text('{"a_1": "first"}')
    config = load_config(project(**settings)).config
    folder = tmp_path / "output" / "validation_images"
    assert last_round(tmp_path / "output", config, 9) is None
    folder.mkdir(parents=True)
    for step in (2, 10, 12):
        for name in ("a_1_0_8x8", "a_1_1_16x8", "validation_0_8x8", "stranger_0_8x8"):
            (folder / f"step_{step}_{name}.png").touch()
    found = last_round(tmp_path / "output", config, 11)
    assert isinstance(found, ImagesValidated)
    assert found.step == 10
    assert {name: [file.name for file in files] for name, files in found.files.items()} == {
        "a_1": ["step_10_a_1_0_8x8.png", "step_10_a_1_1_16x8.png"],
        "validation": ["step_10_validation_0_8x8.png"],
    }
    assert found.prompts["a_1"] == "first"

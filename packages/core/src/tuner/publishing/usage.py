"""Code that loads a result and makes a picture, without this program. It is run by tests."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from tuner.adapters.files import WEIGHT_FILE
from tuner.config.checks import aligned_size
from tuner.publishing.story import Story

_PIPELINE = "DiffusionPipeline"
"""Finds the class by itself; stands in where a family names none."""


def required_packages(story: Story) -> list[str]:
    """Return the packages that the code needs."""
    usage = story.facts.usage
    adapter = {"lora": ["peft"], "full": []}.get(story.kind, ["lycoris-lora"])
    return ["diffusers", "transformers", "accelerate", *adapter, *(usage.packages if usage else ())]


def usage_code(story: Story) -> str:
    """Return Python code that makes a picture with what was trained."""
    return "\n".join([*_imports(story), "", *_base(story), *_adapter(story), "", *_call(story)]) + "\n"


def _imports(story: Story) -> Iterator[str]:
    names = {"diffusers": {_pipeline_name(story)}}
    if story.repository and _needs_file(story):
        names["huggingface_hub"] = {"hf_hub_download"}
    if story.kind not in ("lora", "full"):
        names["lycoris"] = {"create_lycoris_from_weights"}
    if _by_hand(story):
        names["peft"] = {"LoraConfig", "inject_adapter_in_model", "set_peft_model_state_dict"}
        names["safetensors"] = {"safe_open"}
        yield from ("import json", "")
    if story.facts.usage and story.facts.usage.classes:
        names["transformers"] = set(story.facts.usage.classes.values())
    yield "import torch"
    for package, imported in sorted(names.items()):
        yield f"from {package} import {', '.join(sorted(imported))}"


def _base(story: Story) -> Iterator[str]:
    """Load the pipeline that the result acts in, or is."""
    yield 'device = "cuda" if torch.cuda.is_available() else "cpu"'
    source, revision = _literal(story.base), story.config.model.revision
    keywords = ["torch_dtype=torch.bfloat16"]
    if story.kind == "full":
        source = _literal(story.repository or story.weights.as_posix())
    elif revision and story.base_repository:
        keywords.insert(0, f"revision={_literal(revision)}")
    usage = story.facts.usage
    for folder, loader in (usage.classes if usage else {}).items():
        borrowed = f"{source}, subfolder={_literal(folder)}"
        if story.kind != "full":
            borrowed = _literal(story.facts.borrowed_folders[folder])
        dtype = "" if folder.startswith("tokenizer") else ", torch_dtype=torch.bfloat16"
        yield f"{folder} = {loader}.from_pretrained({borrowed}{dtype})"
        keywords.append(f"{folder}={folder}")
    if story.kind != "full" and not story.base_repository:
        yield "# The folder of the base model:"
    yield f"pipeline = {_pipeline_name(story)}.from_pretrained({source}, {', '.join(keywords)})"
    if story.facts.codec_dtype:
        yield f"pipeline.vae.to(torch.{story.facts.codec_dtype})"
    if usage and usage.setup:
        yield from usage.setup(*_size(story))
    yield "pipeline.to(device)"


def _adapter(story: Story) -> Iterator[str]:
    if story.kind == "full":
        return
    denoiser = f"pipeline.{story.facts.part_folders['denoiser'][0]}"
    place = _literal(story.repository or ".")
    if not _needs_file(story):
        yield f"pipeline.load_lora_weights({place}, weight_name={_literal(WEIGHT_FILE)})"
        return
    file = f"hf_hub_download({place}, {_literal(WEIGHT_FILE)})" if story.repository else _literal(WEIGHT_FILE)
    yield f"file = {file}"
    if story.kind == "lora":
        yield from _by_peft(story, denoiser)
        return
    config = story.config.lycoris
    yield f"adapter, _ = create_lycoris_from_weights({config.multiplier if config else 1.0}, file, {denoiser})"
    if config is None or config.bypass_mode is not False:
        yield "# Adding outputs keeps what rebuilding weights in bfloat16 would round away."
        yield "for module in adapter.loras:"
        yield '    module.bypass_mode = getattr(module.org_module[0], "groups", 1) == 1'
    yield "adapter.apply_to()"
    yield "adapter.to(device, torch.bfloat16)"


def _by_peft(story: Story, denoiser: str) -> Iterator[str]:
    """Load a LoRA into a network for which diffusers has no loader."""
    prefix = f"{story.facts.part_folders['denoiser'][0]}."
    yield 'with safe_open(file, framework="pt") as opened:'
    yield '    settings = json.loads(opened.metadata()["lora_adapter_metadata"])'
    yield f"    tensors = {{name.removeprefix({_literal(prefix)}): opened.get_tensor(name) for name in opened.keys()}}"
    yield f"settings = {{name.removeprefix({_literal(prefix)}): value for name, value in settings.items()}}"
    yield f'inject_adapter_in_model(LoraConfig(**settings), {denoiser}, adapter_name="default", state_dict=tensors)'
    yield f'set_peft_model_state_dict({denoiser}, tensors, adapter_name="default")'
    yield f"{denoiser}.to(device, torch.bfloat16).eval()"


def _call(story: Story) -> Iterator[str]:
    validation, usage = story.config.validation, story.facts.usage
    width, height = _size(story)
    yield "picture = pipeline("
    yield f"    prompt={_literal(story.prompt)},"
    if validation.validation_guidance > 1 and _takes(story, "negative_prompt"):
        yield f"    negative_prompt={_literal(story.hide(validation.validation_negative_prompt))},"
    yield f"    width={width},"
    yield f"    height={height},"
    yield f"    num_inference_steps={validation.validation_num_inference_steps},"
    yield f"    guidance_scale={validation.validation_guidance},"
    for name, value in (usage.call(story.config.family) if usage and usage.call else {}).items():
        yield f"    {name}={_literal(value)},"
    seed = validation.validation_seed
    seed = int(story.origin.get("seed", story.config.model.seed)) if seed is None else seed
    yield f'    generator=torch.Generator("cpu").manual_seed({seed}),'
    yield ").images[0]"
    yield 'picture.save("picture.png")'


def _size(story: Story) -> tuple[int, int]:
    return aligned_size(*story.config.validation.sizes()[0], story.facts)


def _pipeline_name(story: Story) -> str:
    return story.facts.usage.pipeline if story.facts.usage else _PIPELINE


def _pipeline_class(story: Story) -> Any:
    import diffusers

    return getattr(diffusers, _pipeline_name(story))


def _loads_lora(story: Story) -> bool:
    """Whether the pipeline has diffusers' own loader; one that is unknown is taken to have it."""
    return story.facts.usage is None or hasattr(_pipeline_class(story), "load_lora_weights")


def _takes(story: Story, argument: str) -> bool:
    pipeline = _pipeline_class(story)
    return story.facts.usage is not None and argument in inspect.signature(pipeline.__call__).parameters


def _by_hand(story: Story) -> bool:
    return story.kind == "lora" and not _loads_lora(story)


def _needs_file(story: Story) -> bool:
    return story.kind not in ("lora", "full") or _by_hand(story)


def _literal(value: Any) -> str:
    """Write a value as Python source on one line, with double quotes where that is possible."""
    text = repr(value)
    if isinstance(value, str) and text.startswith("'") and '"' not in text:
        return f'"{text[1:-1]}"'
    return text

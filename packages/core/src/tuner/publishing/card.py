"""The model card: front matter that the hub reads, and text for people. It holds no path of this machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from huggingface_hub import ModelCardData

from tuner.adapters.files import WEIGHT_FILE
from tuner.publishing.story import PIPELINE, Story
from tuner.publishing.usage import required_packages, usage_code
from tuner.quantisation.schemes import UNQUANTISED

_LICENCE = re.compile(r"(?P<id>[\w.-]+)(?:\s*\((?P<more>.*)\))?\s*")


def render_card(story: Story) -> str:
    """Return the text of a model card."""
    # What must not be shown was hidden before it was quoted; here it is hidden wherever else it may be.
    return story.hide(f"---\n{_front_matter(story)}\n---\n\n" + "\n".join(_body(story)) + "\n")


def _front_matter(story: Story) -> str:
    data = ModelCardData(
        base_model=story.base_repository,
        library_name="diffusers" if story.kind in ("lora", "full") else "lycoris",
        pipeline_tag="text-to-image",
        tags=_tags(story),
        **_further(story),
    )
    return str(data.to_yaml()).strip()


def _further(story: Story) -> dict[str, Any]:
    """Return the fields that only some cards have."""
    fields: dict[str, Any] = {**_licence_fields(story), **_relation(story)}
    if story.instance_prompt:
        fields["instance_prompt"] = story.instance_prompt
    # A widget has a prompt, so the picture of the empty one has none.
    if shown := [picture for picture in story.pictures if picture.prompt]:
        fields["widget"] = [{"text": picture.prompt, "output": {"url": quote(picture.place)}} for picture in shown]
    return fields


def _tags(story: Story) -> list[str]:
    kind = {"lora": ["lora", "template:sd-lora"], "full": []}.get(story.kind, ["lycoris", story.kind])
    return ["text-to-image", story.facts.name, *kind, "tuner"]


def _relation(story: Story) -> dict[str, str]:
    if story.base_repository is None:
        return {}
    return {"base_model_relation": "finetune" if story.kind == "full" else "adapter"}


def _licence_fields(story: Story) -> dict[str, str]:
    """Name the licence only where it is known: base weights of one's own may have any."""
    found = _LICENCE.fullmatch(story.licence or "")
    if found is None:
        return {}
    if found["id"] != "other":
        return {"license": found["id"]}
    name = re.sub(r"[^a-z0-9.]+", "-", (found["more"] or "see base model").lower()).strip("-")
    return {"license": "other", "license_name": name, "license_link": f"https://huggingface.co/{story.base}"}


def _body(story: Story) -> Iterator[str]:
    yield f"# {escaped(story.title)}"
    yield ""
    yield _summary(story)
    if story.pictures:
        yield from ["", "## Pictures", "", "| picture | prompt |", "|---|---|"]
        for picture in story.pictures:
            yield f"| ![{escaped(picture.nickname)}]({quote(picture.place)}) | {escaped(picture.prompt) or '*empty*'} |"
    yield from ["", "## Use", "", f"    pip install {' '.join(required_packages(story))}", ""]
    code = usage_code(story)
    fence = _fence(code)
    yield from [f"{fence}python", code.rstrip(), fence, ""]
    yield from _notes(story)
    yield from ["", "## Training", "", "| setting | value |", "|---|---|"]
    for name, value in _settings(story).items():
        yield f"| {escaped(name)} | {escaped(story.hide(value))} |"
    yield from ["", "## Licence", "", _licence_text(story)]


def _summary(story: Story) -> str:
    base = escaped(story.base)
    if story.base_repository:
        base = f"[{base}](https://huggingface.co/{story.base})"
    pictures = sum(story.samples.values())
    counted = f" on {pictures} picture{'' if pictures == 1 else 's'}" if pictures else ""
    return (
        f"A {story.kind_title} of {base} ({escaped(story.facts.title)}), "
        f"trained for {story.step} step{'' if story.step == 1 else 's'}{counted}."
    )


def _notes(story: Story) -> Iterator[str]:
    if story.kind == "full":
        average = ", with the weights' moving average" if story.config.ema.use_ema else ""
        place = "The repository" if story.repository else f"`{PIPELINE}/`"
        yield f"{place} is a pipeline in diffusers' layout{average}."
        return
    if story.config.ema.use_ema:
        yield f"`ema/{WEIGHT_FILE}` holds the moving average of the weights; it is loaded in the same way."
        yield ""
    if story.facts.original_layers:
        yield (
            f"ComfyUI: `tuner export {WEIGHT_FILE} NAME.safetensors --format comfyui` writes the adapter under the "
            "names of the original checkpoint, which the node *Load LoRA* knows; put that file into `models/loras`."
        )


def _settings(story: Story) -> Mapping[str, str]:
    config, optimisation = story.config, story.config.optimisation
    rows = {
        "base model": story.base,
        "kind": story.kind_title,
        **_adapter_settings(story),
        "steps": str(story.step),
        "optimizer": optimisation.optimizer,
        "learning rate": f"{optimisation.learning_rate:g}, {optimisation.lr_scheduler}",
        "batch": f"{optimisation.train_batch_size} x {optimisation.gradient_accumulation_steps}",
        "precision": _precision(story),
        "moving average (EMA)": f"decay {config.ema.ema_decay:g}" if config.ema.use_ema else "no",
        "seed": story.origin.get("seed", str(config.model.seed)),
    }
    for dataset in config.datasets:
        size = f"{dataset.resolution:g} {dataset.resolution_type}"
        count = story.samples.get(dataset.id)
        rows[story.hide(f"data set {dataset.id}")] = f"{count} pictures, {size}" if count is not None else size
    if "tuner_version" in story.origin:
        rows["made with"] = f"tuner {story.origin['tuner_version']}, {story.origin.get('family_package', '')}"
    return rows


def _precision(story: Story) -> str:
    precision = story.config.precision
    stored = precision.base_model_precision
    return precision.mixed_precision + (f", base stored as {stored}" if stored != UNQUANTISED else "")


def _adapter_settings(story: Story) -> dict[str, str]:
    config = story.config
    if story.kind == "full":
        return {}
    if story.kind == "lora":
        rank = config.adapter.lora_rank
        alpha = rank if config.adapter.lora_alpha is None else config.adapter.lora_alpha
        return {"adapter": f"rank {rank}, alpha {alpha:g}, dropout {config.adapter.lora_dropout:g}"}
    values = config.lycoris.model_dump(exclude={"apply_preset"}, exclude_none=True) if config.lycoris else {}
    return {"adapter": ", ".join(f"{name} {value}" for name, value in values.items())}


def _licence_text(story: Story) -> str:
    if story.licence is None:
        return (
            f"That of the base model, {escaped(story.base)}, which says itself what it is. (The weights that "
            f"{escaped(story.facts.title)} was published with: {escaped(story.facts.licence)}.)"
        )
    return f"That of the base model: {escaped(story.licence)}."


def escaped(text: str) -> str:
    """Write text so that Markdown shows it as it is, on one line, in a cell of a table or elsewhere."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", text)


def _fence(code: str) -> str:
    """Return a fence that the code cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", code)), default=0)
    return "`" * max(3, longest + 1)

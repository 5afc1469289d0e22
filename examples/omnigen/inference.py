"""A picture with an adapter for OmniGen. Needs diffusers and PEFT, and LyCORIS for a LoKr; nothing of tuner.

python examples/omnigen/inference.py --adapter output/pytorch_lora_weights.safetensors --prompt "a ginger cat"
"""

import argparse
import json
from typing import Any

import torch
from diffusers import OmniGenPipeline
from diffusers.pipelines.omnigen import pipeline_omnigen
from diffusers.pipelines.omnigen.processor_omnigen import OmniGenCollator, OmniGenMultiModalProcessor
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file


def main() -> None:
    """Load, sample, save."""
    arguments = parse_arguments()
    dtype = getattr(torch, arguments.dtype)
    pipeline = load_pipeline(arguments, dtype)
    if is_lycoris(arguments.adapter):
        merge_lycoris(arguments.adapter, pipeline.transformer)
    else:
        load_lora(arguments.adapter, pipeline)
    pipeline.transformer.eval()
    if torch.cuda.is_available():
        pipeline.enable_model_cpu_offload()  # encoders leave the GPU before the transformer comes
    picture = pipeline(
        prompt=[arguments.prompt],
        height=arguments.height,
        width=arguments.width,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        generator=torch.Generator("cpu").manual_seed(arguments.seed),
    ).images[0]
    picture.save(arguments.output)


def load_pipeline(arguments: argparse.Namespace, dtype: torch.dtype) -> OmniGenPipeline:
    """Load the pipeline with a processor for text, which knows the negative prompt."""
    TextProcessor.negative = arguments.negative
    pipeline_omnigen.OmniGenMultiModalProcessor = TextProcessor
    return OmniGenPipeline.from_pretrained(arguments.base, torch_dtype=dtype)


class TextProcessor(OmniGenMultiModalProcessor):
    """diffusers' processor of prompts, for text alone: it needs no torchvision.

    All rows get the same positions: the transformer takes one row of them for prompts of all lengths.
    """

    negative = ""

    def __init__(self, tokenizer: Any, max_image_size: int = 1024) -> None:
        self.text_tokenizer, self.max_image_size = tokenizer, max_image_size
        self.collator = OmniGenCollator()

    def __call__(self, prompts: list[str], *_: Any, height: int, width: int, **__: Any) -> dict[str, Any]:
        """Lay out the prompts, then the negative prompt for each."""
        against = self.process_multi_modal_prompt(self.negative, None)
        texts = [self.process_multi_modal_prompt(prompt, None) for prompt in prompts]
        inputs = self.collator([(text, against, None, [height, width]) for text in texts])
        inputs["position_ids"] = torch.arange(inputs["attention_mask"].shape[-1]).expand(2 * len(texts), -1)
        return inputs


def is_lycoris(file: str) -> bool:
    """Whether a file is in LyCORIS' format."""
    return any(name.startswith("lycoris_") for name in load_file(file))


def load_lora(file: str, pipeline: OmniGenPipeline) -> None:
    """Apply a LoRA by PEFT: diffusers has no loader for this pipeline."""
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    with safe_open(file, "pt") as opened:
        settings = json.loads(opened.metadata()["lora_adapter_metadata"])
    config = LoraConfig(**{name.removeprefix("transformer."): value for name, value in settings.items()})
    inject_adapter_in_model(config, pipeline.transformer, state_dict=tensors)
    set_peft_model_state_dict(pipeline.transformer, tensors)


@torch.no_grad()
def merge_lycoris(file: str, transformer: torch.nn.Module) -> None:
    """Add a LoKr to the weights, which samples faster than to apply it.

    Not by LyCORIS' own `merge_to`, which scales low-rank matrices twice.
    """
    from lycoris import create_lycoris_from_weights

    with safe_open(file, framework="pt") as opened:
        settings = json.loads((opened.metadata() or {}).get("lycoris_config", "{}"))
    network, _ = create_lycoris_from_weights(settings.get("multiplier", 1.0), file, transformer)
    for module in network.loras:
        weight = module.org_module[0].weight
        difference = module.multiplier * module.float().get_weight(weight.shape) * module.scalar
        weight.copy_(weight.float() + difference.to(weight.device))


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    base = "Shitao/OmniGen-v1-diffusers"
    parser.add_argument("--base", default=base, help="repository or folder")
    parser.add_argument("--adapter", required=True, help="the adapter's file")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", default="blurry, cropped, ugly", help="what to steer away from")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--output", default="picture.png")
    return parser.parse_args()


if __name__ == "__main__":
    main()

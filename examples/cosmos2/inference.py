"""A picture with an adapter for Cosmos Predict2. Needs diffusers and PEFT, and LyCORIS for a LoKr; nothing of tuner.

    python examples/cosmos2/inference.py --adapter output/pytorch_lora_weights.safetensors --prompt "a ginger cat"

The licence of the weights asks for NVIDIA's guardrail (package cosmos_guardrail), which checks prompts and pictures.
Who samples without it, by --without-guardrail, answers for that.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import Cosmos2TextToImagePipeline
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
        prompt=arguments.prompt,
        negative_prompt=arguments.negative,
        height=arguments.height,
        width=arguments.width,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        generator=torch.Generator("cpu").manual_seed(arguments.seed),
    ).images[0]
    picture.save(arguments.output)


def load_pipeline(arguments: argparse.Namespace, dtype: torch.dtype) -> Cosmos2TextToImagePipeline:
    """Load the pipeline, with the guardrail unless it is turned off."""
    guardrail = {"safety_checker": Unchecked()} if arguments.without_guardrail else {}
    return Cosmos2TextToImagePipeline.from_pretrained(arguments.base, torch_dtype=dtype, **guardrail)


class Unchecked:
    """Stands in the guardrail's place and lets everything pass."""

    def to(self, device: object) -> None:
        """Do nothing: there is nothing to move."""

    def check_text_safety(self, prompt: str) -> bool:
        """Let a prompt pass."""
        return True

    def check_video_safety(self, frames: Any) -> Any:
        """Let pictures pass."""
        return frames


def is_lycoris(file: str) -> bool:
    """Whether a file is in LyCORIS' format."""
    return any(name.startswith("lycoris_") for name in load_file(file))


def load_lora(file: str, pipeline: Cosmos2TextToImagePipeline) -> None:
    """Apply a LoRA by the transformer's loader, which says nothing if no name fits."""
    path = Path(file)
    pipeline.transformer.load_lora_adapter(path.parent, weight_name=path.name, prefix="transformer")
    if not any("lora_" in name for name, _ in pipeline.transformer.named_parameters()):
        raise SystemExit(f"{file} fits no layer of this transformer")


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
    base = "nvidia/Cosmos-Predict2-2B-Text2Image"
    parser.add_argument("--base", default=base, help="repository or folder")
    parser.add_argument("--adapter", required=True, help="the adapter's file")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", default="blurry, cropped, ugly", help="what to steer away from")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=35)
    parser.add_argument("--guidance", type=float, default=7.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--output", default="picture.png")
    parser.add_argument("--without-guardrail", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()

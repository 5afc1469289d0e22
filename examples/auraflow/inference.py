"""A picture with an adapter for AuraFlow. Needs diffusers and PEFT, and LyCORIS for a LoKr; nothing of tuner.

python examples/auraflow/inference.py --adapter output/pytorch_lora_weights.safetensors --prompt "a ginger cat"
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import AuraFlowPipeline
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
        max_sequence_length=arguments.tokens,
        height=arguments.height,
        width=arguments.width,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        generator=torch.Generator("cpu").manual_seed(arguments.seed),
    ).images[0]
    picture.save(arguments.output)


def load_pipeline(arguments: argparse.Namespace, dtype: torch.dtype) -> AuraFlowPipeline:
    """Load the pipeline."""
    return AuraFlowPipeline.from_pretrained(arguments.base, torch_dtype=dtype)


def is_lycoris(file: str) -> bool:
    """Whether a file is in LyCORIS' format."""
    return any(name.startswith("lycoris_") for name in load_file(file))


def load_lora(file: str, pipeline: AuraFlowPipeline) -> None:
    """Apply a LoRA by diffusers' own loader."""
    path = Path(file)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)


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
    base = "terminusresearch/auraflow-v0.3"
    parser.add_argument("--base", default=base, help="repository or folder")
    parser.add_argument("--adapter", required=True, help="the adapter's file")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--negative", default="blurry, cropped, ugly", help="what to steer away from")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--height", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--guidance", type=float, default=3.5)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--output", default="picture.png")
    parser.add_argument("--tokens", type=int, default=120, help="as in training: 120, and 768 for Pony")
    return parser.parse_args()


if __name__ == "__main__":
    main()

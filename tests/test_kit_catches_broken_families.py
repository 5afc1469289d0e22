"""The conformance kit passes a sound family and fails each broken one in the proof that is meant for the fault.

Every broken family is the real Sana plugin with one mistake in it.
"""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

pytest_plugins = ["pytester"]

PREAMBLE = """
from dataclasses import replace

import torch

from tuner import hookimpl
from tuner_sana import plugin as sound

globals().update({name: getattr(sound, name) for name in dir(sound) if hasattr(getattr(sound, name), "tuner_impl")})


class ScaledCodec:
    version = "broken"

    def __init__(self, codec, encode=1.0, decode=1.0):
        self.codec, self.module, self.scales = codec, codec.module, (encode, decode)

    def encode(self, pixels_BCHW):
        return self.codec.encode(pixels_BCHW) * self.scales[0]

    def decode(self, latents):
        return self.codec.decode(latents * self.scales[1])
"""

ORACLE = "test_oracle_reproduces_a_chosen_latent"
PICTURE = "test_oracle_reproduces_a_chosen_picture"
PROMPTS = "test_pipeline_gets_the_conditioning_of_training"
BATCH = "test_losses_of_a_batch_are_those_of_its_samples"
NOT_SQUARE = "test_pictures_that_are_only_just_not_square"
PADDING = "test_padding_has_no_effect"
RANDOM = "test_no_random_generator_is_read"

# Name -> the mistake, and the proofs that fail among those of sampling, latents, velocity and text.
BROKEN: dict[str, tuple[str, set[str]]] = {
    "velocity_sign_flipped": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            return replace(prediction, velocity=-prediction.velocity)
        """,
        {ORACLE, PICTURE},
    ),
    "time_a_thousandth": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=batch.sigma / 1000))
        """,
        {ORACLE, PICTURE, PROMPTS},
    ),
    "time_reversed": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=1 - batch.sigma))
        """,
        {ORACLE, PICTURE},
    ),
    "network_predicts_x0": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            return replace(prediction, velocity=(batch.x - prediction.velocity) / batch.sigma.view(-1, 1, 1, 1))
        """,
        {ORACLE, PICTURE},
    ),
    "latents_halved_in_encode": (
        """
        @hookimpl
        def load_components(request):
            components = sound.load_components(request)
            if components.codec:
                components.codec = ScaledCodec(components.codec, encode=0.5)
            return components
        """,
        {"test_round_trip_is_the_autoencoders"},
    ),
    "latents_halved_both_ways": (
        """
        @hookimpl
        def load_components(request):
            components = sound.load_components(request)
            if components.codec:
                components.codec = ScaledCodec(components.codec, encode=0.5, decode=2.0)
            return components
        """,
        {PICTURE},
    ),
    "reads_the_global_generator": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, x=batch.x + 0 * torch.randn_like(batch.x)))
        """,
        {RANDOM},
    ),
    "attention_mask_dropped": (
        """
        @hookimpl
        def compute_loss(components, batch):
            seen = torch.ones_like(batch.conditioning["prompt_attention_mask"])
            conditioning = {**batch.conditioning, "prompt_attention_mask": seen}
            return sound.compute_loss(components, replace(batch, conditioning=conditioning))
        """,
        {PADDING, PROMPTS},
    ),
    "first_sigma_for_all": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=batch.sigma[:1].expand_as(batch.sigma)))
        """,
        {BATCH, NOT_SQUARE},
    ),
    "tall_pictures_lie_on_their_side": (
        """
        @hookimpl
        def compute_loss(components, batch):
            if batch.x.shape[-2] <= batch.x.shape[-1]:
                return sound.compute_loss(components, batch)
            prediction = sound.compute_loss(components, replace(batch, x=batch.x.mT))
            return replace(prediction, velocity=prediction.velocity.mT)
        """,
        {PROMPTS},
    ),
    "prompts_swapped_in_the_pipeline": (
        """
        @hookimpl
        def validation_pipeline(components):
            sampler = sound.validation_pipeline(components)
            swap = lambda positive, negative: sampler.arguments(negative or empty(positive), positive)
            return replace(sampler, arguments=swap)

        def empty(conditioning):
            return {**conditioning, "prompt_embeds": conditioning["prompt_embeds"].flip(1)}
        """,
        {PROMPTS},
    ),
}

TRIMMED = """
        @hookimpl
        def encode_prompt(components, prompts, role):
            full = sound.encode_prompt(components, prompts, role)
            mask = full["prompt_attention_mask"]
            longest = int(mask.sum(dim=1).max())
            full["prompt_embeds"] = full["prompt_embeds"] * mask.unsqueeze(-1)
            return {name: rows[:, :longest] for name, rows in full.items()}
"""


def filled_up_with(mask: float) -> str:
    """A family whose rows differ in length, and what fills up the mask of shorter ones."""
    return f"""
        {TRIMMED.strip()}

        @hookimpl
        def describe_family():
            padding = {{"prompt_embeds": 0.0, "prompt_attention_mask": {mask}}}
            return replace(sound.describe_family(), conditioning_padding=padding)
    """


# The same for single proofs outside these files.
BROKEN_ELSEWHERE: dict[str, tuple[str, str]] = {
    "pipeline_copies_the_denoiser": (
        """
        @hookimpl
        def validation_pipeline(components):
            from copy import deepcopy
            return sound.validation_pipeline(replace(components, denoiser=deepcopy(components.denoiser)))
        """,
        "test_pipeline_holds_the_live_denoiser",
    ),
    "guidance_the_other_way_round": (
        """
        from tuner.types import Guidance

        @hookimpl
        def validation_pipeline(components):
            return replace(sound.validation_pipeline(components), guidance=Guidance("prompt_first"))
        """,
        "test_guidance_is_combined_and_rescaled_as_the_family_says",
    ),
    "guidance_of_another_strength": (
        """
        from tuner.types import Guidance

        @hookimpl
        def validation_pipeline(components):
            return replace(sound.validation_pipeline(components), guidance=Guidance(neutral_scale=0.0))
        """,
        "test_guidance_is_combined_and_rescaled_as_the_family_says",
    ),
    "loads_more_than_asked_for": (
        """
        @hookimpl
        def load_components(request):
            return sound.load_components(replace(request, parts=request.parts | {"scheduler"}))
        """,
        "test_only_the_part_asked_for_is_loaded",
    ),
    "options_accept_anything": (
        """
        import pydantic

        class Options(sound.describe_family().options):
            model_config = {"extra": "allow"}

        @hookimpl
        def describe_family():
            return replace(sound.describe_family(), options=Options)
        """,
        "test_unknown_option_is_refused",
    ),
    "imports_torch_to_describe_itself": (
        """
        @hookimpl
        def describe_family():
            return sound.describe_family()
        """,
        "test_describing_the_family_imports_nothing_heavy",
    ),
    "a_block_without_gradient": (
        """
        @hookimpl
        def compute_loss(components, batch):
            block = components.denoiser.transformer_blocks[0]
            handle = block.register_forward_hook(lambda module, inputs, output: output.detach())
            try:
                return sound.compute_loss(components, batch)
            finally:
                handle.remove()
        """,
        "test_whatever_matters_gets_a_gradient",
    ),
    "checkpointing_changes_the_velocity": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            factor = 1.001 if components.denoiser.is_gradient_checkpointing else 1
            return replace(prediction, velocity=prediction.velocity * factor)
        """,
        "test_gradient_checkpointing_is_exact",
    ),
    "twin_differs_from_call_to_call": (
        """
        @hookimpl
        def make_twin(folder):
            sound.make_twin(folder)
            (folder / "note.json").write_text(str(torch.rand(1).item()))
            return folder
        """,
        "test_twin_is_deterministic",
    ),
    "time_rounded_to_bfloat16": (
        """
        @hookimpl
        def compute_loss(components, batch):
            return sound.compute_loss(components, replace(batch, sigma=batch.sigma.to(batch.x.dtype).float()))
        """,
        "test_time_keeps_the_precision_of_float32",
    ),
    "shorter_rows_filled_up_with_what_is_heard": (
        filled_up_with(mask=1.0),
        "test_filling_up_shorter_rows_changes_nothing",
    ),
    "rows_of_different_length_that_nothing_fills_up": (TRIMMED, "test_rows_of_different_prompts_stack"),
    "empty_caption_of_another_dtype": (
        """
        @hookimpl
        def encode_prompt(components, prompts, role):
            conditioning = sound.encode_prompt(components, prompts, role)
            if role != "unconditional":
                return conditioning
            return {**conditioning, "prompt_embeds": conditioning["prompt_embeds"].bfloat16()}
        """,
        "test_the_empty_caption_can_replace_any",
    ),
    "cache_loses_precision_that_encoding_has": (
        """
        @hookimpl
        def encode_prompt(components, prompts, role):
            conditioning = sound.encode_prompt(components, prompts, role)
            noise = 1e-3 * torch.randn_like(conditioning["prompt_embeds"])
            return {**conditioning, "prompt_embeds": conditioning["prompt_embeds"] + noise}
        """,
        "test_a_cached_conditioning_is_the_encoded_one",
    ),
    "cuts_prompts_before_their_limit": (
        """
        from tuner.types import PromptLimit

        @hookimpl
        def describe_family():
            return replace(sound.describe_family(), prompt_limits=lambda options: (PromptLimit("tokenizer", 400),))
        """,
        "test_prompts_are_cut_where_the_facts_say",
    ),
    "limits_prompts_of_no_tokenizer": (
        """
        from tuner.types import PromptLimit

        @hookimpl
        def describe_family():
            return replace(sound.describe_family(), prompt_limits=lambda options: (PromptLimit("tokens", 300),))
        """,
        "test_prompt_limits_are_well_formed",
    ),
    "feed_forwards_without_their_customary_name": (
        """
        @hookimpl
        def describe_family():
            return replace(sound.describe_family(), class_aliases={})
        """,
        "test_customary_class_names_are_understood",
    ),
    "refuses_a_number_format_without_a_reason": (
        """
        from tuner.types import PartPolicy, QuantisationPolicy

        @hookimpl
        def quantisation_policy(options):
            return QuantisationPolicy({"denoiser": PartPolicy(refused={"fp8-quanto": "bad"})})
        """,
        "test_quantisation_policy_is_well_formed",
    ),
    "says_two_things_of_a_number_format": (
        """
        from tuner.types import PartPolicy, QuantisationPolicy

        @hookimpl
        def quantisation_policy(options):
            both = PartPolicy(("no_change", "int8-quanto"), discouraged={"int8-quanto": "too coarse for this family"})
            return QuantisationPolicy({"denoiser": both})
        """,
        "test_quantisation_policy_is_well_formed",
    ),
    "allows_a_number_format_and_protects_every_layer": (
        """
        from tuner.types import PartPolicy, QuantisationPolicy

        @hookimpl
        def quantisation_policy(options):
            return QuantisationPolicy({"denoiser": PartPolicy(("no_change", "int8-quanto"), skip_layers=("*",))})
        """,
        "test_a_stored_denoiser_computes_with_rounded_weights",
    ),
    "answers_otherwise_on_a_stored_denoiser": (
        """
        from tuner.types import PartPolicy, QuantisationPolicy

        @hookimpl
        def quantisation_policy(options):
            return QuantisationPolicy({"denoiser": PartPolicy(("no_change", "int8-torchao"))})

        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            stored = hasattr(components.denoiser.proj_out.weight, "qdata")
            return replace(prediction, velocity=prediction.velocity * (1.001 if stored else 1.0))
        """,
        "test_a_stored_denoiser_computes_with_rounded_weights",
    ),
    "protects_layers_that_do_not_exist": (
        """
        from tuner.types import PartPolicy, QuantisationPolicy

        @hookimpl
        def quantisation_policy(options):
            return QuantisationPolicy({"denoiser": PartPolicy(skip_layers=("patch_embedder*",))})
        """,
        "test_layers_that_are_never_quantised_exist",
    ),
    "auxiliary_loss_without_gradient": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            return replace(prediction, auxiliary={"size": prediction.velocity.square().mean().detach()})
        """,
        "test_auxiliary_losses_are_learnt_from",
    ),
    "auxiliary_loss_twice_under_checkpointing": (
        """
        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            times = 2 if components.denoiser.is_gradient_checkpointing else 1
            return replace(prediction, auxiliary={"size": times * prediction.velocity.square().mean()})
        """,
        "test_auxiliary_losses_bear_gradient_checkpointing",
    ),
    "auxiliary_loss_of_all_that_was_asked": (
        """
        asked = []

        @hookimpl
        def compute_loss(components, batch):
            prediction = sound.compute_loss(components, batch)
            size = prediction.velocity.square().mean()
            earlier = sum(asked)
            asked.append(size.detach())
            return replace(prediction, auxiliary={"size": size + earlier})
        """,
        "test_auxiliary_losses_ignore_the_base_models_pass",
    ),
    "forgets_the_scale_of_tiles": (
        """
        class Codec(ScaledCodec):
            def encode(self, pixels_BCHW):
                return super().encode(pixels_BCHW) / (self.codec.scale if self.module.use_tiling else 1)

        @hookimpl
        def load_components(request):
            components = sound.load_components(request)
            if components.codec is not None:
                components.codec = Codec(components.codec)
            return components
        """,
        "test_tiles_are_nearly_the_whole",
    ),
    "answers_by_how_often_it_was_asked": (
        """
        @hookimpl
        def compute_loss(components, batch):
            denoiser, prediction = components.denoiser, sound.compute_loss(components, batch)
            if denoiser.training:
                denoiser.asked = getattr(denoiser, "asked", 0) + 1
            return replace(prediction, velocity=prediction.velocity * (1 + 1e-4 * getattr(denoiser, "asked", 0)))
        """,
        "test_stopping_and_going_on_changes_nothing",
    ),
}


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sana's twin, shared by all runs of this file.

    Making it, and a picture with it, imports here whatever the kit needs, so that no inner run imports it again.
    """
    import tuner.adapters  # noqa: F401
    from tuner.plugins import load_family
    from tuner.testing.family import FamilyUnderTest

    family = FamilyUnderTest("sana", load_family("sana"), tmp_path_factory.mktemp("kit") / "twin")
    family.predict(family.batch())
    family.sampler()
    return family.twin


def test_sound_family_passes_everything(pytester: pytest.Pytester, twin: Path) -> None:
    passed, skipped, failed = _run(pytester, "sana", twin)
    assert not failed
    assert not skipped
    proofs = {proof for _, expected in BROKEN.values() for proof in expected}
    assert proofs | {proof for _, proof in BROKEN_ELSEWHERE.values()} <= passed


@pytest.mark.parametrize("fault", BROKEN)
def test_fault_is_caught(pytester: pytest.Pytester, twin: Path, fault: str) -> None:
    code, expected = BROKEN[fault]
    _write_plugin(pytester, fault, code)
    passed, _, failed = _run(
        pytester, f"broken.{fault}", twin, "-k", "test_sampling or test_latents or test_velocity or test_text"
    )
    assert failed == expected
    assert passed


@pytest.mark.parametrize("fault", BROKEN_ELSEWHERE)
def test_fault_elsewhere_is_caught(pytester: pytest.Pytester, twin: Path, fault: str) -> None:
    code, proof = BROKEN_ELSEWHERE[fault]
    _write_plugin(pytester, fault, code)
    _, _, failed = _run(pytester, f"broken.{fault}", twin, "-k", proof)
    assert failed == {proof}


def test_proofs_of_the_facts_need_no_twin(pytester: pytest.Pytester, tmp_path: Path) -> None:
    passed, skipped, failed = _run(pytester, "sana", tmp_path / "none", "-k", "test_facts")
    assert len(passed) == 9
    assert not skipped
    assert not failed
    assert not (tmp_path / "none").exists()


def test_rows_of_different_length_pass(pytester: pytest.Pytester, twin: Path) -> None:
    _write_plugin(pytester, "trimmed", filled_up_with(mask=0.0))
    passed, skipped, failed = _run(pytester, "broken.trimmed", twin, "-k", "test_batches or test_text")
    assert not failed
    assert not skipped
    assert {PADDING, "test_filling_up_shorter_rows_changes_nothing"} <= passed


def _write_plugin(pytester: pytest.Pytester, name: str, code: str) -> None:
    package = pytester.mkpydir("broken")
    (package / f"{name}.py").write_text(PREAMBLE + dedent(code))
    pytester.syspathinsert()


def _run(pytester: pytest.Pytester, family: str, twin: Path, *arguments: str) -> tuple[set[str], set[str], set[str]]:
    """Run the kit in this process; return the names of the proofs that passed, were skipped and failed."""
    options = ("--tuner-family", family, "--tuner-twin", str(twin), "-p", "no:cacheprovider", "-p", "no:terminal")
    outcomes = pytester.inline_run(*options, *arguments).listoutcomes()
    passed, skipped, failed = ({report.nodeid.split("::")[-1].split("[")[0] for report in kind} for kind in outcomes)
    return passed - failed, skipped, failed

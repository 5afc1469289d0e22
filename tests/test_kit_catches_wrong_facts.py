"""The conformance kit catches what a family says of itself and does not keep."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

# Name -> the mistake, and the proof that fails.
BROKEN: dict[str, tuple[str, str]] = {
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
}


@pytest.mark.parametrize("mistake", BROKEN)
def test_it_is_caught(kit, mistake):
    code, proof = BROKEN[mistake]
    assert kit.run_with(mistake, code, proof).failed == {proof}

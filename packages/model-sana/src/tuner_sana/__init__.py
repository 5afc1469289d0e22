"""Sana for tuner. The plugin names the functions behind its hooks; importing it imports no torch."""

from tuner.family.lazy import LazyFamily

plugin = LazyFamily(
    package="tuner_sana",
    describe="facts:sana",
    policy="policy:sana_policy",
    load="loading:load_sana",
    encode="text:encode_sana_prompt",
    predict="velocity:predict_velocity",
    sampler="pipeline:create_sampler",
    twin="twin:write_twin",
)

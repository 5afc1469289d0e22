"""AuraFlow for tuner. The plugin names the functions behind its hooks; importing it imports no torch."""

from tuner.family.lazy import LazyFamily

plugin = LazyFamily(
    package="tuner_auraflow",
    describe="facts:auraflow",
    policy="policy:auraflow_policy",
    load="loading:load_auraflow",
    encode="text:encode_auraflow_prompt",
    predict="velocity:predict_velocity",
    sampler="pipeline:create_sampler",
    twin="twin:write_twin",
)

"""Cosmos Predict2 for tuner. The plugin names the functions behind its hooks; importing it imports no torch."""

from tuner.family.lazy import LazyFamily

plugin = LazyFamily(
    package="tuner_cosmos2",
    describe="facts:cosmos2",
    policy="policy:cosmos2_policy",
    load="loading:load_cosmos2",
    encode="text:encode_cosmos2_prompt",
    predict="velocity:predict_velocity",
    sampler="pipeline:create_sampler",
    twin="twin:write_twin",
)

"""OmniGen for tuner. The plugin names the functions behind its hooks; importing it imports no torch."""

from tuner.family.lazy import LazyFamily

plugin = LazyFamily(
    package="tuner_omnigen",
    describe="facts:omnigen",
    policy="policy:omnigen_policy",
    load="loading:load_omnigen",
    encode="text:encode_omnigen_prompt",
    predict="velocity:predict_velocity",
    sampler="pipeline:create_sampler",
    twin="twin:write_twin",
)

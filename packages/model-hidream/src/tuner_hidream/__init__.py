"""HiDream for tuner. The plugin names the functions behind its hooks; importing it imports no torch."""

from tuner.family.lazy import LazyFamily

plugin = LazyFamily(
    package="tuner_hidream",
    describe="facts:hidream",
    policy="policy:hidream_policy",
    load="loading:load_hidream",
    encode="text:encode_hidream_prompt",
    predict="velocity:predict_velocity",
    sampler="pipeline:create_sampler",
    twin="twin:write_twin",
)

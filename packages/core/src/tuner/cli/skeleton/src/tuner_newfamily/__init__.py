"""NewFamily for tuner. The plugin names the functions behind its hooks; importing it imports no torch."""

from tuner.family.lazy import LazyFamily

plugin = LazyFamily(
    package="tuner_newfamily",
    describe="facts:newfamily",
    policy="policy:newfamily_policy",
    load="loading:load_newfamily",
    encode="text:encode_newfamily_prompt",
    predict="velocity:predict_velocity",
    sampler="pipeline:create_sampler",
    twin="twin:write_twin",
)

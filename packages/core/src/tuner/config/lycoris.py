"""The LyCORIS file."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, model_validator

from tuner.config.settings import Topic, setting


class LayerSettings(Topic):
    """Settings of some layers, which replace those at the top of the file; what is not given stays as it is there."""

    algo: Literal["lokr"] | None = setting(None, "Algorithm.")
    linear_dim: int | None = setting(None, "Rank.", ge=1, validation_alias=AliasChoices("linear_dim", "dim"))
    linear_alpha: float | None = setting(
        None, "Scale of low-rank parts.", gt=0, validation_alias=AliasChoices("linear_alpha", "alpha")
    )
    factor: int | None = setting(None, "Size of the first matrix.", ge=-1)
    full_matrix: bool | None = setting(None, "Never factorise the second matrix.")
    use_scalar: bool | None = setting(None, "Start from a trained scalar of 0.")
    decompose_both: bool | None = setting(None, "Factorise the first matrix too.")


class LycorisPreset(Topic):
    """Which layers are adapted, and with which overrides."""

    target_module: list[str] | None = setting(
        None, "Classes whose linear and convolutional layers are adapted; aliases such as FeedForward are understood."
    )
    module_algo_map: dict[str, LayerSettings] = setting(
        {}, "Class -> settings that replace those at the top; its layers are adapted too."
    )
    name_algo_map: dict[str, LayerSettings] = setting(
        {}, "Pattern on dotted layer names -> settings; without target_module these layers alone are adapted."
    )
    use_fnmatch: bool = setting(
        False, "Patterns are globs instead of regular expressions.", needs={"name_algo_map": (True,)}
    )
    enable_conv: bool = setting(True, "Adapt convolutions with kernels larger than 1 too.")
    target_name: list[str] = setting([], "Patterns of further layers by dotted name.")
    exclude_name: list[str] = setting([], "Patterns of layers to leave alone.")


class LycorisConfig(Topic):
    """An adapter of the LyCORIS kind."""

    algo: Literal["lokr"] = setting(..., "Algorithm.")
    multiplier: float = setting(..., "Strength at which the adapter is trained.")
    linear_dim: int | None = setting(
        None, "Rank; half the larger factor or more gives an unfactorised second matrix.", ge=1
    )
    linear_alpha: float = setting(
        ..., "Scale of low-rank parts, by alpha / linear_dim; unused by unfactorised ones.", gt=0
    )
    factor: int = setting(
        -1, "Size of the first matrix: the divisor of a side at or below this; -1 for the most even split.", ge=-1
    )
    full_matrix: bool = setting(False, "Never factorise the second matrix.")
    use_scalar: bool = setting(False, "Start from a trained scalar of 0 instead of a second matrix of zeros.")
    bypass_mode: bool | None = setting(
        None, "Add the adapter's output (true, or not given) instead of rebuilding the weight, which rounds more."
    )
    decompose_both: bool = setting(False, "Factorise the first matrix too.")
    apply_preset: LycorisPreset = setting(LycorisPreset(), "Which layers are adapted.")

    @model_validator(mode="after")
    def _has_rank(self) -> LycorisConfig:
        if self.linear_dim is None and not self.full_matrix:
            raise ValueError("linear_dim is required unless full_matrix is true")
        return self

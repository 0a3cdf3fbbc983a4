"""What a PEFT adapter_config.json says of a base's layers. Owns: PEFT's matching rules, and which keys are refused.

Does not: read files or tensors. The rules are those of peft 0.21 (`check_target_module_exists`, `get_pattern_key`);
a key that we do not know must be off, because it may change what the adapter computes.
"""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from checkpoints.fields import Fields, brief
from checkpoints.patterns import whole_match
from lorajax.errors import UnsupportedAdapter
from lorajax.spec import MAX_RANK, TARGETS, ModelSpec, Target

_UNDERSTOOD: Final = frozenset(
    {
        "peft_type",
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
    }
)
# How it was trained, and what PEFT ignores on linear layers: `fan_in_fan_out` is for Conv1D, which no base here has.
_HARMLESS: Final = frozenset(
    {
        "base_model_name_or_path",
        "revision",
        "task_type",
        "inference_mode",
        "peft_version",
        "auto_mapping",
        "lora_dropout",
        "fan_in_fan_out",
        "megatron_core",
        "eva_config",
        "corda_config",
        "loftq_config",
        "lora_ga_config",
        "qalora_group_size",
        "runtime_config",
        "ensure_weight_tying",
    }
)
# The others (pissa, olora, corda, loftq, lora_ga) change the base's weights too, and PEFT does it again at every load.
_KEEPS_BASE: Final = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_LAYER_KEYS: Final = ("layers_to_transform", "layers_pattern")
_NOT_SERVED: Final = ("lm_head", "model.embed_tokens")
_LARGEST_ALPHA: Final = 1e6

_TO_CONVERT: Final = "that start changes the base's weights; save it with path_initial_model_for_weight_conversion"

type Question = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What the config says of one linear layer: the rank of its update, and the factor of `b @ a`."""

    rank: int
    scale: float


def module_name(layer: int, target: Target) -> str:
    """Name of a linear layer in the base model, as PEFT matches it."""
    parent = "self_attn" if target in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    return f"model.layers.{layer}.{parent}.{target}"


def claims(config: Fields, model: ModelSpec) -> dict[tuple[int, Target], Claim]:
    """The linear layers of `model`, as (layer, target), that the config says it changes, and how.

    Raises: UnsupportedAdapter naming the key and its value; MalformedCheckpoint if a value is not what its key wants.
    """
    _refuse(config)
    is_claimed = _claimed(config)
    also = [name for name in _NOT_SERVED if is_claimed(name)]
    if also:
        raise _unsupported(config, "target_modules", f"that takes in {also[0]}; only {', '.join(TARGETS)} are served")
    names = {(layer, target): module_name(layer, target) for layer in range(model.num_layers) for target in TARGETS}
    scaled = _scaled(config)
    found = {module: scaled(name) for module, name in names.items() if is_claimed(name)}
    if not found:
        raise _unsupported(
            config, "target_modules", "no linear layer of this base matches; was it trained for another?"
        )
    return found


def _unsupported(config: Fields, key: str, why: str) -> UnsupportedAdapter:
    name = brief(key)[1:-1]  # a stranger's key may be long, or hold a line break
    return UnsupportedAdapter(f"{config.source}: {name} is {brief(config.values.get(key))}; {why}")


def _refuse(config: Fields) -> None:
    if config.values.get("peft_type") != "LORA":
        raise _unsupported(config, "peft_type", "only 'LORA' is served")
    for key, value in config.values.items():
        is_off = value is None or value is False or value in ([], {}, "") or (key, value) == ("bias", "none")
        if key not in _UNDERSTOOD and key not in _HARMLESS and not is_off:
            raise _unsupported(config, key, "it may change the answers and is not served; train without it")
    if config.values.get("init_lora_weights") not in _KEEPS_BASE:
        raise _unsupported(config, "init_lora_weights", _TO_CONVERT)


def _claimed(config: Fields) -> Question:
    targets = config.values.get("target_modules")
    if isinstance(targets, str) and any(config.values.get(key) is not None for key in _LAYER_KEYS):
        raise config.wrong("target_modules", f"a list where {' or '.join(_LAYER_KEYS)} is given")
    is_target = _all_linear if _is_all_linear(targets) else _named(config, "target_modules")
    is_excluded = _named(config, "exclude_modules") if config.values.get("exclude_modules") else lambda name: False
    is_in_layers = _in_layers(config)
    exact = frozenset(targets) if isinstance(targets, list) else frozenset()
    # A full name needs no layer index: PEFT looks at `layers_to_transform` for suffixes only.
    return lambda name: not is_excluded(name) and is_target(name) and (name in exact or is_in_layers(name))


def _is_all_linear(targets: object) -> bool:
    return isinstance(targets, str) and targets.lower() == "all-linear"


def _all_linear(name: str) -> bool:
    return name not in _NOT_SERVED


def _named(config: Fields, key: str) -> Question:
    """Whether a name is in the key's list, whole or as its dotted end, or matches the key's regular expression."""
    value = config.values.get(key)
    if isinstance(value, str):
        matches = _pattern(config, key, value)
        return lambda name: matches(name, 0)
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise config.wrong(key, "a list of module names or a regular expression")
    names, ends = frozenset(value), tuple(f".{entry}" for entry in value)
    return lambda name: name in names or name.endswith(ends)


def _pattern(config: Fields, key: str, pattern: str) -> Callable[[str, int], bool]:
    try:
        return whole_match(pattern)
    except ValueError as error:
        raise UnsupportedAdapter(f"{config.source}: {key} holds {brief(pattern)}; {error}") from None


def _in_layers(config: Fields) -> Question:
    """Whether a name's layer is one of `layers_to_transform`; always, where that is absent."""
    layers = frozenset(config.whole_numbers("layers_to_transform"))
    value = config.values.get("layers_pattern") or []
    stems = [value] if isinstance(value, str) else value
    if not isinstance(stems, list) or not all(
        isinstance(stem, str) and re.fullmatch(r"[\w.]+", stem) for stem in stems
    ):
        raise config.wrong("layers_pattern", "a module name or a list of them")
    if stems and config.values.get("layers_to_transform") is None:
        raise config.wrong("layers_to_transform", "given where layers_pattern is")
    if not layers:
        return lambda name: True
    finders = [re.compile(rf"(?:^|.*?\.){stem}\.(\d+)\.") for stem in stems or [r"[^.]*"]]
    return lambda name: any(int(found[1]) in layers for finder in finders if (found := finder.match(name)))


def _scaled(config: Fields) -> Callable[[str], Claim]:
    """The claim of each module name, by `r`, `lora_alpha` and their patterns."""
    rank_of = _by_pattern(config.inner("rank_pattern"), _rank, _rank(config, "r", 8))
    alpha_of = _by_pattern(config.inner("alpha_pattern"), _alpha, _alpha(config, "lora_alpha", 8))
    is_stabilised = config.flag("use_rslora", default=False)

    def claim(name: str) -> Claim:
        rank = rank_of(name)
        return Claim(rank=rank, scale=alpha_of(name) / (math.sqrt(rank) if is_stabilised else rank))

    return claim


def _by_pattern[T](patterns: Fields, parse: Callable[[Fields, str], T], default: T) -> Callable[[str], T]:
    """The value of the first pattern that matches a name, or a dotted end of it, in full."""
    pairs = [(_pattern(patterns, "a key", pattern), parse(patterns, pattern)) for pattern in patterns.values]

    def value(name: str) -> T:
        starts = [0, *(at + 1 for at, character in enumerate(name) if character == ".")]
        return next((value for matches, value in pairs if any(matches(name, at) for at in starts)), default)

    return value


def _rank(fields: Fields, key: str, default: int | None = None) -> int:
    rank = fields.whole(key, default)
    if rank > MAX_RANK:
        raise _unsupported(fields, key, f"the largest rank that is served is {MAX_RANK}")
    return rank


def _alpha(fields: Fields, key: str, default: float | None = None) -> float:
    value = fields.values.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= _LARGEST_ALPHA:
        raise fields.wrong(key, f"a number of at most {_LARGEST_ALPHA:g}")
    return float(value)

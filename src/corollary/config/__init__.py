"""Typed, closed configuration: YAML files ↔ `Config` objects ↔ dotted overrides. It knows no algorithm.

    layers   defaults of the class < `defaults:` of a file, in order < the file < overrides `a.b=c`
    tree     every value with the file and line, or the override, that it came from
    ${}      resolved once, over the whole tree, by OmegaConf (its only use)
    check    pydantic; every mistake at once, each with its place, dotted key, what came and the nearest right name

A mapping is merged into the one below it; a list, a scalar and a free mapping (`dict`) of the class's defaults are
replaced. The key `type` names a variant: where it changes, the keys of the old variant go.
"""

from corollary.config.base import Config, diff, schema, to_yaml
from corollary.config.loading import Loaded, load, preset_names
from corollary.config.problems import InvalidConfig, Problem
from corollary.config.variants import Variant, by_name, choice, one_of_classes, variant

__all__ = [
    "Config",
    "InvalidConfig",
    "Loaded",
    "Problem",
    "Variant",
    "by_name",
    "choice",
    "diff",
    "load",
    "one_of_classes",
    "preset_names",
    "schema",
    "to_yaml",
    "variant",
]

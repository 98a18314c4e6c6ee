"""The methods, one line each: of these the first that claims a config gets it. A new method is one more line."""

from mmengine.config import Config

from mmnas_ext.runs.distillation import DISTILLATION
from mmnas_ext.runs.evolution import EVOLUTION
from mmnas_ext.runs.gradient import GRADIENT
from mmnas_ext.runs.method import Method
from mmnas_ext.runs.plain import PLAIN
from mmnas_ext.runs.random_search import RANDOM_SEARCH

METHODS: list[Method] = [
    DISTILLATION,
    EVOLUTION,
    RANDOM_SEARCH,
    GRADIENT,
    PLAIN,
]


def method_of(cfg: Config) -> Method:
    """The method of a config."""
    return next(method for method in METHODS if method.claims(cfg))

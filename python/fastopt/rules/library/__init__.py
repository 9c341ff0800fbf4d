"""Rules that people ask for, each with its paper and its equation, as fastopt.rules makes them."""

from .adabelief import adabelief
from .adamax import adamax
from .adamw import adamw
from .adan import adan
from .ademamix import ademamix
from .adopt import adopt
from .cautious import cautious_adamw, cautious_lion
from .lamb import lamb
from .laprop import laprop
from .mars import mars
from .radam import radam
from .schedule_free import schedule_free_adamw, schedule_free_sgd
from .signum import signum
from .stable_adamw import stable_adamw
from .yogi import yogi

__all__ = [
    "adabelief",
    "adamax",
    "adamw",
    "adan",
    "ademamix",
    "adopt",
    "cautious_adamw",
    "cautious_lion",
    "lamb",
    "laprop",
    "mars",
    "radam",
    "schedule_free_adamw",
    "schedule_free_sgd",
    "signum",
    "stable_adamw",
    "yogi",
]

"""Rules that people ask for, each with its paper and its equation, as fastopt.rules makes them."""

from .adamw import adamw

__all__ = ["adamw"]

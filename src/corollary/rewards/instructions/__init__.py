"""The reward `instructions`: what of an answer a rule can check, such as its length, its form and the words in it."""

from corollary.rewards.instructions.following import KINDS, followed, instructions, loosened

__all__ = ["KINDS", "followed", "instructions", "loosened"]

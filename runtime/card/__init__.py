"""Purification that keeps faces on a card: from their upload on, everything happens there."""

from immunecam.runtime.card.arrays import CardArray, lies_on_card
from immunecam.runtime.card.frames import CardFrames
from immunecam.runtime.card.opening import open_best, open_card
from immunecam.runtime.card.purifier import CardPurifier

__all__ = ["CardArray", "CardFrames", "CardPurifier", "lies_on_card", "open_best", "open_card"]

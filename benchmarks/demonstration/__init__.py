"""An attack and its removal for people to look at: who is shown, what is tried, sheet and clip.

Nothing here is evidence: a few people, one recogniser. Figures are the evaluation's.
"""

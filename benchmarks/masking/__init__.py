"""How well a recogniser of masked faces recognises, and what attackers see: measured, compared, told on a page."""

"""Where liveness networks break: attacks by head, budget and direction, errors by species, and what helps."""

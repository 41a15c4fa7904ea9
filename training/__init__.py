"""Data, attacks, objectives and loops that train an antibody network."""

"""What a purification takes on this machine: time by stage, memory, start, energy, and the paper's form beside it."""

"""Engines: what turns aligned faces into antibody probabilities, one module a backend."""

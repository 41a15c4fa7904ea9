"""Adversarial attacks on face recognisers."""

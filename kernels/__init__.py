"""Mutation and subspace projection: the numpy reference that every backend must agree with."""

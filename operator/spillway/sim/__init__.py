"""Proof: the decisions of `core` in simulated time, beside its peers and the clairvoyant optimum, on recorded demand and spot."""

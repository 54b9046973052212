"""Talking to whoever makes and removes nodes: the protocol and its errors, the simulated market, and clients of real ones."""

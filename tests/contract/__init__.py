"""Samples and recorded answers that both our models and the real servers must agree on."""

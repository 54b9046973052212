"""Talking to Prometheus."""

"""Spillway: GPUs kept busy and bills kept small, with a reason for every step."""

__version__ = "0.1.0"

"""Driving the loop: collect, decide, confirm, act, report."""

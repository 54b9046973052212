"""Decisions only: values in, values out; standard library, no clock and no I/O."""

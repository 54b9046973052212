"""Tests of Spillway, fast ones first."""

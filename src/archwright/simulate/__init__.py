"""Simulates a plan under its load: engines step by step, on the same traffic that `bench` replays."""

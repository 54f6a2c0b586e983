"""Rates of a machine: devices, roofline, power, uncertainty."""

"""What a machine can do: devices, roofline, power, and how uncertain its figures are."""

"""The probe of this machine: its memory and cores, and its speed in a short measurement."""

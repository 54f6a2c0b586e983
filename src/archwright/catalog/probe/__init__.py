"""The probe of this machine: its memory and cores, and the speed that a short measurement finds."""

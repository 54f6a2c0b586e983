"""From a plan to what runs it: the processes of one machine, and bundles of files for each target."""

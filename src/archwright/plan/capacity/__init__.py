"""How many machines a load needs: candidates, availability, service levels, quotas, export control, purchases."""

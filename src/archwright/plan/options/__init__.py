"""Options of a plan: this machine, cloud, on-premises, hybrid, hosted API, serverless, edge sites."""

"""The options a plan compares: this machine, cloud, on-premises, hybrid, hosted API, serverless, edge sites."""

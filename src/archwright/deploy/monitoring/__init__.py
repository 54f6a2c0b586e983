"""Monitoring of a deployment: what to watch from the plan, its rules with their tests, scrape jobs and dashboards."""

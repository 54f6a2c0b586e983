"""One document for business and engineers from a plan.json: HTML, PDF, spreadsheet."""

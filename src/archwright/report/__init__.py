"""Report of a plan for business and engineers: HTML, PDF, workbook."""

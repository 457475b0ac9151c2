"""Charts and pages: the look of every chart, pages with charts, and HTML for notebooks."""

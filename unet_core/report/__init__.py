"""Step report: tables and one HTML page."""

"""A study while it runs, or after: rows from its files, a view of them, and the terminal's page."""

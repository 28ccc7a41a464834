"""Who may do what, and who did what: `backcast token` and `backcast audit`."""

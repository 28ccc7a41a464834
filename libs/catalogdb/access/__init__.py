"""Who may do what, as far as the catalog knows it: tokens, and what is of which group."""

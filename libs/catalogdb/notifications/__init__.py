"""What is wrong now, as far as the catalog knows: opened, changed and resolved, and listed."""

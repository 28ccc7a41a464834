"""One module per noun of the command line, named after it, and what the larger ones do."""

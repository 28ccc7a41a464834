"""A blocking client of NBD servers, over Unix or TCP sockets, which threads share."""

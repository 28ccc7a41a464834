"""What a filter has for each of its NBD clients, beside the connection itself."""

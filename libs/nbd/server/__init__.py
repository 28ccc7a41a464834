"""The server's end of an NBD connection, as a state machine."""

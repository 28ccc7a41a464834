"""The client's end of an NBD connection, as a state machine."""

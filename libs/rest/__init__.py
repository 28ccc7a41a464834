"""REST, served and called: server, connections, callers, problem documents, client."""

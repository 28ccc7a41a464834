"""The span protocol: how a chunker takes the bytes that it wants from an agent."""

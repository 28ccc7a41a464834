"""The processes of Backcast; they never import each other."""

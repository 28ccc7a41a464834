"""The processes of Backcast; they never import each other, except that the command calls public endpoints."""

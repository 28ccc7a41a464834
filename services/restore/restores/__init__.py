"""Plans of whole restores, their progress and outcome."""

"""What happens when the catalog is lost or goes back: checkpoints, reconciling, checking."""

"""Checkpoints: what the catalog knows and manifests lack, signed and encrypted in the bucket."""
